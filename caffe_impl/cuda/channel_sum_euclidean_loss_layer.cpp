#include <vector>

#include "caffe/layers/channel_sum_euclidean_loss_layer.hpp"

namespace caffe {

template <typename Dtype>
void ChannelSumEuclideanLossLayer<Dtype>::Reshape(
    const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  vector<int> shape1 = bottom[0]->shape();
  vector<int> shape2 = bottom[1]->shape();
  const bool have_channels = shape1.size() >= 2 && shape2.size() >= 2;
  if (have_channels) {
    shape1.erase(shape1.begin() + 1);
    shape2.erase(shape2.begin() + 1);
  }
  CHECK(have_channels && shape1 == shape2)
      << "ChannelSumEuclideanLoss needs bottoms of the shapes (N, C1, S...) "
      << "and (N, C2, S...), which differ in nothing but the channels; got "
      << bottom[0]->shape_string() << " and " << bottom[1]->shape_string();
  CHECK_GT(shape1[0], 0) << "ChannelSumEuclideanLoss: the batch is empty; got "
      << bottom[0]->shape_string() << " and " << bottom[1]->shape_string();
  LossLayer<Dtype>::Reshape(bottom, top);
  d_.Reshape(shape1);
  plan_ = channel_sum::MakePlan<Dtype>(bottom[0]->shape(0),
      bottom[0]->shape(1), bottom[1]->shape(1), bottom[0]->count(2));
  partials_.Reshape(vector<int>(1, plan_.blocks));
}

template <typename Dtype>
void ChannelSumEuclideanLossLayer<Dtype>::Forward_cpu(
    const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  top[0]->mutable_cpu_data()[0] = channel_sum::ForwardCPU(plan_,
      bottom[0]->cpu_data(), bottom[1]->cpu_data(), d_.mutable_cpu_data());
}

template <typename Dtype>
void ChannelSumEuclideanLossLayer<Dtype>::Backward_cpu(
    const vector<Blob<Dtype>*>& top, const vector<bool>& propagate_down,
    const vector<Blob<Dtype>*>& bottom) {
  const Dtype scale =
      channel_sum::Scale(top[0]->cpu_diff()[0], plan_.samples);
  for (int i = 0; i < 2; ++i) {
    if (propagate_down[i]) {
      channel_sum::BackwardCPU(plan_, plan_.channels[i],
          i == 0 ? scale : -scale, d_.cpu_data(),
          bottom[i]->mutable_cpu_diff());
    }
  }
}

#ifdef CPU_ONLY
STUB_GPU(ChannelSumEuclideanLossLayer);
#endif

INSTANTIATE_CLASS(ChannelSumEuclideanLossLayer);
REGISTER_LAYER_CLASS(ChannelSumEuclideanLoss);

}  // namespace caffe
