#include <stdint.h>

#include <vector>

#include "caffe/layers/channel_sum_euclidean_loss_layer.hpp"

namespace caffe {

using channel_sum::BackwardKernel;
using channel_sum::FinishKernel;
using channel_sum::ForwardKernel;
using channel_sum::kVectorBytes;

namespace {

// Blobs always are aligned; memory that was given to set_gpu_data may not be.
bool Aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0;
}

}  // namespace

template <typename Dtype>
void ChannelSumEuclideanLossLayer<Dtype>::Forward_gpu(
    const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  const int kWidest = kVectorBytes / sizeof(Dtype);
  const Dtype* x1 = bottom[0]->gpu_data();
  const Dtype* x2 = bottom[1]->gpu_data();
  Dtype* d = d_.mutable_gpu_data();
  double* partials = partials_.mutable_gpu_data();
  // NOLINT_NEXT_LINE(whitespace/operators)
#define LAUNCH(vector, aligned) ForwardKernel<Dtype, vector, aligned> \
    <<<plan_.blocks, plan_.threads>>>(plan_, x1, x2, d, partials)
  if (plan_.vector == 1) {
    LAUNCH(1, true);
  } else if (Aligned(x1) && Aligned(x2) && Aligned(d)) {
    LAUNCH(kWidest, true);
  } else {
    LAUNCH(kWidest, false);
  }
#undef LAUNCH
  CUDA_POST_KERNEL_CHECK;
  // NOLINT_NEXT_LINE(whitespace/operators)
  FinishKernel<Dtype><<<1, plan_.threads>>>(plan_, partials,
      top[0]->mutable_gpu_data());
  CUDA_POST_KERNEL_CHECK;
}

template <typename Dtype>
void ChannelSumEuclideanLossLayer<Dtype>::Backward_gpu(
    const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
    const vector<Blob<Dtype>*>& bottom) {
  if (!propagate_down[0] && !propagate_down[1]) { return; }
  const int kWidest = kVectorBytes / sizeof(Dtype);
  const Dtype* d = d_.gpu_data();
  const Dtype* weight = top[0]->gpu_diff();
  Dtype* dx1 = propagate_down[0] ? bottom[0]->mutable_gpu_diff() : NULL;
  Dtype* dx2 = propagate_down[1] ? bottom[1]->mutable_gpu_diff() : NULL;
  // NOLINT_NEXT_LINE(whitespace/operators)
#define LAUNCH(vector, aligned) BackwardKernel<Dtype, vector, aligned> \
    <<<plan_.blocks, plan_.threads>>>(plan_, d, weight, dx1, dx2)
  if (plan_.vector == 1) {
    LAUNCH(1, true);
  } else if (Aligned(d) && Aligned(dx1) && Aligned(dx2)) {
    LAUNCH(kWidest, true);
  } else {
    LAUNCH(kWidest, false);
  }
#undef LAUNCH
  CUDA_POST_KERNEL_CHECK;
}

INSTANTIATE_LAYER_GPU_FUNCS(ChannelSumEuclideanLossLayer);

}  // namespace caffe
