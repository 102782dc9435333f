#ifndef CAFFE_CHANNEL_SUM_EUCLIDEAN_LOSS_LAYER_HPP_
#define CAFFE_CHANNEL_SUM_EUCLIDEAN_LOSS_LAYER_HPP_

#include <vector>

#include "caffe/blob.hpp"
#include "caffe/layer.hpp"
#include "caffe/proto/caffe.pb.h"

#include "caffe/layers/channel_sum_euclidean_loss_kernels.hpp"
#include "caffe/layers/loss_layer.hpp"

namespace caffe {

/**
 * @brief The Euclidean loss of two inputs that are summed over their channels
 *        first: @f$ E = \frac{1}{2N} \sum_{n,s} d_{n,s}^2 @f$ with
 *        @f$ d_{n,s} = \sum_c x_1[n,c,s] - \sum_c x_2[n,c,s] @f$.
 *
 * @param bottom input Blob vector (length 2)
 *   -# @f$ (N \times C_1 \times S...) @f$ x1
 *   -# @f$ (N \times C_2 \times S...) @f$ x2, with any number of channels;
 *      there may be any number of further axes, also none
 * @param top output Blob vector (length 1)
 *   -# @f$ () @f$ the loss
 *
 * Both bottoms may have a gradient. As in EuclideanLoss, Backward uses the d
 * of the last Forward.
 */
template <typename Dtype>
class ChannelSumEuclideanLossLayer : public LossLayer<Dtype> {
 public:
  explicit ChannelSumEuclideanLossLayer(const LayerParameter& param)
      : LossLayer<Dtype>(param) {}
  virtual void Reshape(const vector<Blob<Dtype>*>& bottom,
      const vector<Blob<Dtype>*>& top);

  virtual inline const char* type() const { return "ChannelSumEuclideanLoss"; }
  // LossLayer allows it for the first bottom only.
  virtual inline bool AllowForceBackward(const int /* bottom */) const {
    return true;
  }

 protected:
  virtual void Forward_cpu(const vector<Blob<Dtype>*>& bottom,
      const vector<Blob<Dtype>*>& top);
  virtual void Forward_gpu(const vector<Blob<Dtype>*>& bottom,
      const vector<Blob<Dtype>*>& top);
  virtual void Backward_cpu(const vector<Blob<Dtype>*>& top,
      const vector<bool>& propagate_down, const vector<Blob<Dtype>*>& bottom);
  virtual void Backward_gpu(const vector<Blob<Dtype>*>& top,
      const vector<bool>& propagate_down, const vector<Blob<Dtype>*>& bottom);

  channel_sum::Plan plan_;
  Blob<Dtype> d_;          // N x S...
  Blob<double> partials_;  // on a GPU: the sum of squares of each block
};

}  // namespace caffe

#endif  // CAFFE_CHANNEL_SUM_EUCLIDEAN_LOSS_LAYER_HPP_
