#include "caffe/layers/scaled_layer.hpp"

namespace caffe {

template <typename Dtype>
Dtype ScaledLayer<Dtype>::Factor() {
  const LayerParameter& layer = this->layer_param_;
  return layer.scaled_param().scale() * layer.power_param().gain();
}

template <typename Dtype>
void ScaledLayer<Dtype>::Forward_cpu(const vector<Blob<Dtype>*>& bottom,
                                     const vector<Blob<Dtype>*>& top) {
  for (int i = 0; i < bottom[0]->count(); ++i)
    top[0]->mutable_cpu_data()[i] = bottom[0]->cpu_data()[i] * Factor();
}

template <typename Dtype>
void ScaledLayer<Dtype>::Backward_cpu(const vector<Blob<Dtype>*>& top,
                                      const vector<bool>& propagate_down,
                                      const vector<Blob<Dtype>*>& bottom) {
  for (int i = 0; i < bottom[0]->count(); ++i)
    bottom[0]->mutable_cpu_diff()[i] = top[0]->cpu_diff()[i] * Factor();
}

INSTANTIATE_CLASS(ScaledLayer);
REGISTER_LAYER_CLASS(Scaled);

}  // namespace caffe
