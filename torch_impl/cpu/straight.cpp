// The port's eager calls on the CPU, without Python, which costs a third as much
// as the kernels at 1e6 numbers. kernels.py builds this against PyTorch's headers
// and hands it the kernels; where it is missing, fused.py does the same.

#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
typedef std::vector<int64_t> Sizes;

// More is given back to the system at once, as PyTorch does.
const int64_t kKeptBytes = 1 << 24;

// Of cpu/run.cpp: threads, N, C1, C2, S, and four arrays.
typedef void (*Kernel)(int, long long, long long, long long, long long,
    const void*, const void*, void*, void*);  // NOLINT(runtime/int)
Kernel kernels[2][2];  // of float, of double: forward, backward

bool IsDouble(const Tensor& x) { return x.scalar_type() == at::kDouble; }

// Whether memory holds the numbers of a tensor as they are, without a tangent,
// and nobody traces it.
bool IsPlain(const Tensor& x) {
  static const c10::DispatchKeySet known({c10::DispatchKey::CPU,
      c10::DispatchKey::ADInplaceOrView, c10::DispatchKey::AutogradCPU,
      c10::DispatchKey::AutocastCPU});
  return !(x.key_set().raw_repr() & ~known.raw_repr())
      && !x._fw_grad(/*level=*/0).defined()
      && !c10::impl::TorchDispatchModeTLS::any_modes_set();
}

Tensor Empty(const Sizes& sizes, const Tensor& like) {
  return at::detail::empty_cpu(sizes, like.scalar_type());
}

// The memory of the last gradient of an input that is not large. Where nobody
// has that gradient any more it is taken for the next one, for the caches still
// hold it; malloc would take what was free for longest, at 1e6 numbers in 18
// microseconds more.
struct Kept {
  c10::Storage storage;

  Tensor Gradient(const Sizes& sizes, const Tensor& like) {
    const int64_t bytes = c10::multiply_integers(sizes) * like.element_size();
    if (storage && storage.use_count() == 1
        && static_cast<int64_t>(storage.nbytes()) == bytes) {
      Tensor again = at::detail::make_tensor<c10::TensorImpl>(
          c10::Storage(storage), c10::DispatchKey::CPU, like.dtype());
      again.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
      return again;
    }
    const Tensor fresh = Empty(sizes, like);
    storage = bytes < kKeptBytes ? fresh.storage() : c10::Storage();
    return fresh;
  }
};

thread_local Kept kept[2];  // of x1, of x2

Sizes WithChannels(const Tensor& d, int64_t channels) {
  Sizes sizes = d.sizes().vec();
  sizes.insert(sizes.begin() + 1, channels);
  return sizes;
}

struct Straight : torch::autograd::Function<Straight> {
  // The loss, and d, without which a backward of the backward would not know
  // that d depends on the inputs.
  static variable_list forward(AutogradContext* ctx, const Tensor& x1,
      const Tensor& x2, bool expanded) {
    const auto a = x1.expect_contiguous();
    const auto b = x2.expect_contiguous();
    const int64_t n = x1.size(0), c1 = x1.size(1), c2 = x2.size(1);
    Sizes sizes = x1.sizes().vec();
    sizes.erase(sizes.begin() + 1);
    const Tensor d = Empty(sizes, x1);
    const Tensor loss = Empty({}, x1);
    kernels[IsDouble(x1)][0](at::get_num_threads(), n, c1, c2, d.numel() / n,
        a->const_data_ptr(), b->const_data_ptr(), d.mutable_data_ptr(),
        loss.mutable_data_ptr());
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({d});
    ctx->saved_data[""] = Sizes{c1, c2, expanded};
    return {loss, d};
  }

  static variable_list backward(AutogradContext* ctx,
      const variable_list& gradients) {
    Tensor d = ctx->get_saved_variables()[0];
    const Tensor& weight = gradients[0];
    const Sizes channels = ctx->saved_data[""].toIntVector();
    const bool expanded = channels[2];
    variable_list found(3);  // `expanded` has none
    if (!weight.defined() && !gradients[1].defined()) { return found; }
    if (!weight.defined() || gradients[1].defined()
        || at::GradMode::is_enabled() || !IsPlain(weight) || !IsPlain(d)) {
      for (int i = 0; i < 2; ++i) {
        if (ctx->needs_input_grad(i)) {
          const Tensor one = Gradient(d, weight, gradients[1], i == 1)
              .unsqueeze(1).expand(WithChannels(d, channels[i]));
          found[i] = expanded ? one : one.contiguous();
        }
      }
      return found;
    }
    // A hook on saved tensors may give them back in another order or type.
    d = d.to(weight.scalar_type()).contiguous();
    int64_t written[2];
    void* to[2] = {nullptr, nullptr};
    for (int i = 0; i < 2; ++i) {
      written[i] = expanded ? std::min<int64_t>(channels[i], 1) : channels[i];
      if (ctx->needs_input_grad(i)) {
        found[i] = kept[i].Gradient(WithChannels(d, written[i]), d);
        to[i] = found[i].mutable_data_ptr();
      }
    }
    kernels[IsDouble(d)][1](at::get_num_threads(), d.size(0), written[0],
        written[1], d.numel() / d.size(0), d.const_data_ptr(),
        weight.const_data_ptr(), to[0], to[1]);
    for (int i = 0; expanded && i < 2; ++i) {
      if (found[i].defined()) {
        found[i] = found[i].expand(WithChannels(d, channels[i]));
      }
    }
    return found;
  }

  // That of one channel, of what PyTorch can trace, batch and differentiate:
  // from the gradient of the loss, and of d in a backward of the backward.
  static Tensor Gradient(const Tensor& d, const Tensor& weight,
      const Tensor& of_d, bool second) {
    Tensor found = of_d;
    if (weight.defined()) {
      const Tensor own = weight.div(d.size(0)).mul(d);
      found = of_d.defined() ? own.add(of_d) : own;
    }
    return second ? found.neg() : found;
  }
};

// The loss; none of what another way must take, or refuse.
Tensor Loss(const Tensor& x1, const Tensor& x2, bool expanded) {
  const at::IntArrayRef a = x1.sizes(), b = x2.sizes();
  const bool taken = IsPlain(x1) && IsPlain(x2)
      && x1.scalar_type() == x2.scalar_type()
      && (x1.scalar_type() == at::kFloat || IsDouble(x1))
      && a.size() >= 2 && a.size() == b.size() && a[0] > 0 && a[0] == b[0]
      && a.slice(2) == b.slice(2);
  return taken ? Straight::apply(x1, x2, expanded)[0] : Tensor();
}

TORCH_LIBRARY_FRAGMENT(caffe_parity, library) {
  library.def("channel_sum_euclidean_loss_straight"
      "(Tensor x1, Tensor x2, bool expanded) -> Tensor", &Loss);
}

}  // namespace

extern "C" void channel_sum_use(Kernel forward_float, Kernel backward_float,
    Kernel forward_double, Kernel backward_double) {
  kernels[0][0] = forward_float;
  kernels[0][1] = backward_float;
  kernels[1][0] = forward_double;
  kernels[1][1] = backward_double;
}
