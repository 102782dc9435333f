// Part of every plug-in that plugin.py builds: which layer types it registers, and when they count.
//
// A type that Caffe has already is replaced while the plug-in is in use, and comes back behind it.

#include <string>

#include "caffe/layer_factory.hpp"

namespace {

template <typename Dtype>
void Use(bool in_use) {
  typename caffe::LayerRegistry<Dtype>::CreatorRegistry& registry =
      caffe::LayerRegistry<Dtype>::Registry();
  for (auto& each : caffe::LayerRegistry<Dtype>::Own()) {
    if (in_use) {
      each.before = registry.count(each.type) ? registry[each.type] : nullptr;
      registry[each.type] = each.creator;
    } else if (each.before) {
      registry[each.type] = each.before;
    } else {
      registry.erase(each.type);
    }
  }
}

}  // namespace

// The types, one a line, in the order in which they were registered.
extern "C" const char* caffe_parity_types() {
  static std::string types;
  types.clear();
  for (const auto& each : caffe::LayerRegistry<float>::Own()) types += each.type + "\n";
  return types.c_str();
}

// From loading on it is in use.
extern "C" void caffe_parity_use(int in_use) {
  Use<float>(in_use);
  Use<double>(in_use);
}
