// Launches the layer's kernels on PyTorch's tensors; kernels.py calls this.
//
// Every function returns NULL, or what went wrong in CUDA's words. Pointers
// are on the device, tensors contiguous. Nothing waits for the GPU.

#include <stdint.h>

#include "channel_sum_euclidean_loss_kernels.hpp"

// A test runs this file on the CPU, with a LAUNCH of its own.
#ifdef __CUDACC__
#define LAUNCH(kernel, blocks, threads, stream) \
  kernel<<<blocks, threads, 0, stream>>>
#endif

namespace {

using namespace caffe::channel_sum;  // NOLINT(build/namespaces)

// A tensor may begin anywhere in its storage.
bool Aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0;
}

const char* Message(cudaError_t error) {
  return error == cudaSuccess ? NULL : cudaGetErrorString(error);
}

template <typename Dtype>
const char* Forward(int device, const Plan& plan, const Dtype* x1,
    const Dtype* x2, Dtype* d, double* partials, Dtype* loss,
    cudaStream_t stream) {
  const cudaError_t error = cudaSetDevice(device);
  if (error != cudaSuccess) { return Message(error); }
  const int kWidest = kVectorBytes / sizeof(Dtype);
  void (*kernel)(Plan, const Dtype*, const Dtype*, Dtype*, double*) =
      ForwardKernel<Dtype, kWidest, false>;
  if (plan.vector == 1) {
    kernel = ForwardKernel<Dtype, 1, true>;
  } else if (Aligned(x1) && Aligned(x2) && Aligned(d)) {
    kernel = ForwardKernel<Dtype, kWidest, true>;
  }
  LAUNCH(kernel, plan.blocks, plan.threads, stream)(plan, x1, x2, d, partials);
  LAUNCH(FinishKernel<Dtype>, 1, plan.threads, stream)(plan, partials, loss);
  return Message(cudaGetLastError());
}

// dx1 or dx2 is NULL where none is wanted.
template <typename Dtype>
const char* Backward(int device, const Plan& plan, const Dtype* d,
    const Dtype* weight, Dtype* dx1, Dtype* dx2, cudaStream_t stream) {
  const cudaError_t error = cudaSetDevice(device);
  if (error != cudaSuccess) { return Message(error); }
  const int kWidest = kVectorBytes / sizeof(Dtype);
  void (*kernel)(Plan, const Dtype*, const Dtype*, Dtype*, Dtype*) =
      BackwardKernel<Dtype, kWidest, false>;
  if (plan.vector == 1) {
    kernel = BackwardKernel<Dtype, 1, true>;
  } else if (Aligned(d) && Aligned(dx1) && Aligned(dx2)) {
    kernel = BackwardKernel<Dtype, kWidest, true>;
  }
  LAUNCH(kernel, plan.blocks, plan.threads, stream)(plan, d, weight, dx1, dx2);
  return Message(cudaGetLastError());
}

}  // namespace

// n, c1, c2, s: samples, channels of x1 and of x2, positions.
// x1: n * c1 * s, x2: n * c2 * s, d: n * s, loss and weight: 1, and
// partials: channel_sum_partials doubles.
#define FUNCTIONS(Dtype) \
  extern "C" int channel_sum_partials_##Dtype(Index n, Index c1, Index c2, \
      Index s) { \
    return MakePlan<Dtype>(n, c1, c2, s).blocks; \
  } \
  extern "C" const char* channel_sum_forward_##Dtype(int device, Index n, \
      Index c1, Index c2, Index s, const Dtype* x1, const Dtype* x2, \
      Dtype* d, double* partials, Dtype* loss, void* stream) { \
    return Forward(device, MakePlan<Dtype>(n, c1, c2, s), x1, x2, d, \
        partials, loss, static_cast<cudaStream_t>(stream)); \
  } \
  extern "C" const char* channel_sum_backward_##Dtype(int device, Index n, \
      Index c1, Index c2, Index s, const Dtype* d, const Dtype* weight, \
      Dtype* dx1, Dtype* dx2, void* stream) { \
    return Backward(device, MakePlan<Dtype>(n, c1, c2, s), d, weight, dx1, \
        dx2, static_cast<cudaStream_t>(stream)); \
  }

FUNCTIONS(float)
FUNCTIONS(double)
