// Squared hinge loss as a compiled layer. `--load` compiles it with the installed Caffe's compiler:
//
//     parity check examples/squared_hinge.prototxt --load examples/squared_hinge_layer.cpp \
//         --data label=binary --reference examples/squared_hinge.py:loss
//
// bottom[0]: scores (N, ...); bottom[1]: labels of 0 and 1 in the same shape, no gradient;
// top[0]: sum of max(0, 1 - t x)^2 / N, where t is -1 for label 0 and 1 for label 1.

#include <algorithm>
#include <vector>

#include "caffe/layers/loss_layer.hpp"

namespace caffe {

template <typename Dtype>
class SquaredHingeLossLayer : public LossLayer<Dtype> {
 public:
  explicit SquaredHingeLossLayer(const LayerParameter& param)
      : LossLayer<Dtype>(param) {}
  virtual inline const char* type() const { return "SquaredHingeLoss"; }

 protected:
  virtual void Reshape(const vector<Blob<Dtype>*>& bottom,
      const vector<Blob<Dtype>*>& top) {
    LossLayer<Dtype>::Reshape(bottom, top);
    CHECK_EQ(bottom[0]->count(), bottom[1]->count())
        << "SquaredHingeLoss needs a label for each score";
    slope_.ReshapeLike(*bottom[0]);
  }

  virtual void Forward_cpu(const vector<Blob<Dtype>*>& bottom,
      const vector<Blob<Dtype>*>& top) {
    const Dtype* x = bottom[0]->cpu_data();
    const Dtype* label = bottom[1]->cpu_data();
    Dtype* slope = slope_.mutable_cpu_data();
    double sum = 0;
    for (int i = 0; i < bottom[0]->count(); ++i) {
      const Dtype t = 2 * label[i] - 1;
      const Dtype gap = std::max(Dtype(0), 1 - t * x[i]);
      slope[i] = -2 * t * gap;
      sum += gap * gap;
    }
    top[0]->mutable_cpu_data()[0] = sum / bottom[0]->shape(0);
  }

  virtual void Backward_cpu(const vector<Blob<Dtype>*>& top,
      const vector<bool>& propagate_down,
      const vector<Blob<Dtype>*>& bottom) {
    CHECK(!propagate_down[1]) << "SquaredHingeLoss has no gradient for labels";
    if (propagate_down[0]) {
      const Dtype scale = top[0]->cpu_diff()[0] / bottom[0]->shape(0);
      caffe_cpu_scale(bottom[0]->count(), scale, slope_.cpu_data(),
          bottom[0]->mutable_cpu_diff());
    }
  }

  Blob<Dtype> slope_;
};

INSTANTIATE_CLASS(SquaredHingeLossLayer);
REGISTER_LAYER_CLASS(SquaredHingeLoss);

}  // namespace caffe
