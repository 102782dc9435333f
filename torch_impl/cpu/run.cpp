// Runs the layer's loops on PyTorch's tensors on the CPU; kernels.py calls this.
//
// Every function returns NULL, or what went wrong. Tensors are contiguous. The
// samples are shared among the threads; every number of them makes the same bits.

#include <algorithm>
#include <exception>
#include <thread>  // NOLINT(build/c++11)
#include <vector>

#include "channel_sum_euclidean_loss_kernels.hpp"

namespace {

using namespace caffe::channel_sum;  // NOLINT(build/namespaces)

// Measured: of fewer numbers two threads take longer than one. To start one and
// wait for it takes 16 microseconds, and its caches are cold.
const Index kFew = 1 << 21;

// Calls body(first, last) for parts of 0 to count - 1, each in its own thread.
template <typename Body>
void Share(Index threads, Index count, const Body& body) {
  threads = std::max<Index>(std::min(threads, count), 1);
  std::vector<std::thread> others;
  Index first = 0;
  try {
    for (Index t = 0; t < threads - 1; ++t) {
      const Index last = count * (t + 1) / threads;
      others.emplace_back(body, first, last);
      first = last;
    }
  } catch (const std::exception&) {
    // The system gives no more threads: this one does the rest.
  }
  body(first, count);
  for (std::thread& other : others) { other.join(); }
}

template <typename Dtype>
void Forward(Index threads, const Plan& plan, const Dtype* x1,
    const Dtype* x2, Dtype* d, Dtype* loss) {
  std::vector<double> partials(plan.blocks);
  Share(threads, plan.samples, [&](Index first, Index last) {
    MakeDifference(plan, first, last, x1, x2, d);
  });
  const bool few = plan.samples * plan.positions < kFew;
  Share(few ? 1 : threads, plan.blocks, [&](Index first, Index last) {
    SumSquares(plan, first, last, d, partials.data());
  });
  *loss = Finish<Dtype>(plan, partials.data());
}

// dx1 or dx2 is NULL where none is wanted.
template <typename Dtype>
void Backward(Index threads, const Plan& plan, const Dtype* d,
    const Dtype* weight, Dtype* dx1, Dtype* dx2) {
  const Dtype scale = Scale(*weight, plan.samples);
  Share(threads, plan.samples, [&](Index first, Index last) {
    if (dx1) {
      MakeDiff(plan, plan.channels[0], scale, first, last, d, dx1, kLargeBytes);
    }
    if (dx2) {
      MakeDiff(plan, plan.channels[1], -scale, first, last, d, dx2, kLargeBytes);
    }
  });
}

Index Threads(Index threads, Index n, Index c1, Index c2, Index s) {
  return n * (c1 + c2) * s < kFew ? 1 : threads;
}

}  // namespace

// n, c1, c2, s: samples, channels of x1 and of x2, positions.
// x1: n * c1 * s, x2: n * c2 * s, d: n * s, loss and weight: 1.
#define FUNCTIONS(Dtype) \
  extern "C" void channel_sum_forward_##Dtype(int threads, Index n, Index c1, \
      Index c2, Index s, const Dtype* x1, const Dtype* x2, Dtype* d, \
      Dtype* loss) { \
    Forward(Threads(threads, n, c1, c2, s), MakePlan<Dtype>(n, c1, c2, s), \
        x1, x2, d, loss); \
  } \
  extern "C" void channel_sum_backward_##Dtype(int threads, Index n, \
      Index c1, Index c2, Index s, const Dtype* d, const Dtype* weight, \
      Dtype* dx1, Dtype* dx2) { \
    Backward(Threads(threads, n, c1, c2, s), MakePlan<Dtype>(n, c1, c2, s), \
        d, weight, dx1, dx2); \
  }

FUNCTIONS(float)
FUNCTIONS(double)
