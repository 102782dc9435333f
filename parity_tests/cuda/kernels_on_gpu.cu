// Every kernel that the layer launches, for a compiler that has no Caffe.

#include "channel_sum_euclidean_loss_kernels.hpp"

namespace caffe {
namespace channel_sum {

#define INSTANTIATE(Dtype, vector, aligned) \
  template __global__ void ForwardKernel<Dtype, vector, aligned>(Plan, \
      const Dtype*, const Dtype*, Dtype*, double*); \
  template __global__ void BackwardKernel<Dtype, vector, aligned>(Plan, \
      const Dtype*, const Dtype*, Dtype*, Dtype*)

INSTANTIATE(float, 1, true);
INSTANTIATE(float, 4, true);
INSTANTIATE(float, 4, false);
INSTANTIATE(double, 1, true);
INSTANTIATE(double, 2, true);
INSTANTIATE(double, 2, false);
template __global__ void FinishKernel<float>(Plan, const double*, float*);
template __global__ void FinishKernel<double>(Plan, const double*, double*);

}  // namespace channel_sum
}  // namespace caffe
