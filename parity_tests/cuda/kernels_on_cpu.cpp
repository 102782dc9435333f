// Runs the layer's GPU kernels on the CPU, every GPU thread a thread of the
// system and every barrier a real one, so that sanitizers see each access:
// AddressSanitizer one beyond the end, ThreadSanitizer a barrier that is
// missing. What they make is held against a plain loop, within the rounding
// that the formats allow, and against the layer's CPU code, to the bit.
//
// Prints one line for each failure and one for each type; exit status 1 if
// anything failed.

#include <stdlib.h>

#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "caffe/layers/channel_sum_euclidean_loss_kernels.hpp"

using namespace caffe::channel_sum;  // NOLINT(build/namespaces)

namespace {

class Barrier {
 public:
  explicit Barrier(int count) : count_(count), waiting_(0), round_(0) {}
  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    const int round = round_;
    if (++waiting_ == count_) {
      waiting_ = 0;
      ++round_;
      all_here_.notify_all();
    } else {
      all_here_.wait(lock, [&] { return round_ != round; });
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_here_;
  int count_, waiting_, round_;
};

struct HostThread {
  int index_, block_, blocks_;
  Barrier* all;
  Barrier* warp;
  int index() const { return index_; }
  int block() const { return block_; }
  int blocks() const { return blocks_; }
  void Sync() const { all->Wait(); }
  void SyncWarp() const { warp->Wait(); }
};

struct Kernel {
  int blocks;
  std::function<void(const HostThread&)> run;
};

// Runs kernels one after another, as a GPU does. Inside of one, a thread goes
// from block to block as fast as the barriers let it.
void Launch(int threads, const std::vector<Kernel>& kernels) {
  const int warp_size = std::min(threads, kWarp);
  Barrier all(threads);
  std::vector<std::unique_ptr<Barrier> > warps;
  for (int i = 0; i < threads / warp_size; ++i) {
    warps.emplace_back(new Barrier(warp_size));
  }
  std::vector<std::thread> running;
  for (int t = 0; t < threads; ++t) {
    running.emplace_back([&, t] {
      Barrier* warp = warps[t / warp_size].get();
      for (const Kernel& kernel : kernels) {
        for (int block = 0; block < kernel.blocks; ++block) {
          kernel.run(HostThread{t, block, kernel.blocks, &all, warp});
        }
        all.Wait();
      }
    });
  }
  for (std::thread& thread : running) { thread.join(); }
}

// Memory that ends where its last number does, and begins `shift` numbers
// behind a place that is aligned for every load.
template <typename Dtype>
class Array {
 public:
  Array(Index count, int shift, Dtype value) : count_(count), shift_(shift) {
    if (posix_memalign(&memory_, 64, (count + shift) * sizeof(Dtype) + 1)) {
      abort();
    }
    std::fill(begin(), begin() + count, value);
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { free(memory_); }
  Dtype* begin() { return static_cast<Dtype*>(memory_) + shift_; }
  const Dtype* begin() const {
    return static_cast<const Dtype*>(memory_) + shift_;
  }
  Dtype operator[](Index i) const { return begin()[i]; }
  Index count() const { return count_; }
  bool operator==(const Array& other) const {
    return memcmp(begin(), other.begin(), count_ * sizeof(Dtype)) == 0;
  }

 private:
  void* memory_;
  Index count_;
  int shift_;
};

// Values of either sign over twenty orders of magnitude, and plain ones.
template <typename Dtype>
void Fill(Array<Dtype>* array, unsigned int seed, bool wild) {
  unsigned long long state = seed * 2654435761ULL + 1;  // NOLINT(runtime/int)
  for (Index i = 0; i < array->count(); ++i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    const double value = static_cast<double>(state >> 11) / (1ULL << 52) - 1;
    const int exponent = wild ? static_cast<int>(state >> 5 & 63) - 32 : 0;
    array->begin()[i] = static_cast<Dtype>(std::ldexp(value, exponent));
  }
}

template <typename Dtype>
struct Test {
  Index n, c1, c2, s;
  int threads;
  int rows;    // 0: as planned
  int blocks;  // 0: as planned
  int shift;
  bool wild;
};

template <typename Dtype>
const char* Name() { return sizeof(Dtype) == 4 ? "float" : "double"; }

template <typename Dtype>
class Run {
 public:
  explicit Run(const Test<Dtype>& test) : test_(test), wrong_(0) {
    plan_ = MakePlan<Dtype>(test.n, test.c1, test.c2, test.s, test.threads);
    if (test.rows) {
      plan_.rows = test.rows;
      const Index groups = plan_.threads / (plan_.lanes * plan_.rows);
      plan_.tiles = (plan_.samples * plan_.strips + groups - 1) / groups;
    }
    if (test.blocks) { plan_.blocks = test.blocks; }
  }

  int Check() {
    const Dtype nan = std::numeric_limits<Dtype>::quiet_NaN();
    const int shift = test_.shift;
    Array<Dtype> x1(test_.n * test_.c1 * test_.s, shift, 0);
    Array<Dtype> x2(test_.n * test_.c2 * test_.s, shift, 0);
    Fill(&x1, 1, test_.wild);
    Fill(&x2, 2, test_.wild);
    Array<Dtype> d(test_.n * test_.s, shift, nan);
    Array<Dtype> cpu_d(test_.n * test_.s, shift, nan);
    Array<Dtype> dx1(x1.count(), shift, nan), cpu_dx1(x1.count(), shift, nan);
    Array<Dtype> dx2(x2.count(), shift, nan), cpu_dx2(x2.count(), shift, nan);
    const Dtype weight = static_cast<Dtype>(-3.7);
    Dtype loss = nan;
    const Dtype cpu_loss =
        ForwardCPU(plan_, x1.begin(), x2.begin(), cpu_d.begin());
    const Dtype scale = Scale(weight, plan_.samples);
    BackwardCPU(plan_, test_.c1, scale, cpu_d.begin(), cpu_dx1.begin());
    BackwardCPU(plan_, test_.c2, -scale, cpu_d.begin(), cpu_dx2.begin());
    Array<Dtype> streamed(x1.count(), shift, nan);
    BackwardCPU(plan_, test_.c1, scale, cpu_d.begin(), streamed.begin(), 0);
    Expect(streamed == cpu_dx1, "dx1 past the caches differs from dx1");
    const int kWidest = kVectorBytes / sizeof(Dtype);
    if (plan_.vector == 1) {
      Kernels<1, true>(x1, x2, weight, &d, &loss, &dx1, &dx2);
    } else if (shift * sizeof(Dtype) % kVectorBytes == 0) {
      Kernels<kWidest, true>(x1, x2, weight, &d, &loss, &dx1, &dx2);
    } else {
      Kernels<kWidest, false>(x1, x2, weight, &d, &loss, &dx1, &dx2);
    }
    Expect(d == cpu_d, "d differs from the CPU's");
    Expect(memcmp(&loss, &cpu_loss, sizeof(loss)) == 0,
           "the loss differs from the CPU's");
    Expect(dx1 == cpu_dx1, "dx1 differs from the CPU's");
    Expect(dx2 == cpu_dx2, "dx2 differs from the CPU's");
    Bounds(x1, x2, weight, d, loss, dx1, dx2);
    return wrong_;
  }

 private:
  template <int kVector, bool kAligned>
  void Kernels(const Array<Dtype>& x1, const Array<Dtype>& x2, Dtype weight,
               Array<Dtype>* d, Dtype* loss, Array<Dtype>* dx1,
               Array<Dtype>* dx2) {
    const Dtype nan = std::numeric_limits<Dtype>::quiet_NaN();
    // Shared memory, which holds garbage when a block begins.
    const Index block_sums = plan_.threads * kVector;
    Array<Dtype> sums(plan_.blocks * block_sums, 0, nan);
    Array<double> squares((plan_.blocks + 1) * plan_.threads, 0, nan);
    Array<double> partials(plan_.blocks, 0, nan);
    Array<Dtype> alone1(dx1->count(), test_.shift, nan);
    Array<Dtype> alone2(dx2->count(), test_.shift, nan);
    const auto forward = [&](const HostThread& thread) {
      ForwardBlock<Dtype, kVector, kAligned>(thread, plan_, x1.begin(),
          x2.begin(), d->begin(), partials.begin(),
          sums.begin() + thread.block() * block_sums,
          squares.begin() + thread.block() * plan_.threads);
    };
    const auto finish = [&](const HostThread& thread) {
      FinishBlock(thread, plan_, partials.begin(), loss,
          squares.begin() + plan_.blocks * plan_.threads);
    };
    const auto backward = [&](Dtype* diff1, Dtype* diff2) {
      return [&, diff1, diff2](const HostThread& thread) {
        BackwardBlock<Dtype, kVector, kAligned>(thread, plan_, d->begin(),
            &weight, diff1, diff2);
      };
    };
    Launch(plan_.threads, {
        {plan_.blocks, forward},
        {1, finish},
        {plan_.blocks, backward(dx1->begin(), dx2->begin())},
        {plan_.blocks, backward(alone1.begin(), NULL)},
        {plan_.blocks, backward(NULL, alone2.begin())}});
    Expect(alone1 == *dx1, "dx1 alone differs from dx1 with dx2");
    Expect(alone2 == *dx2, "dx2 alone differs from dx2 with dx1");
  }

  // Higham's bounds: a sum of T terms in any order is off by at most
  // g(T-1) * sum |terms|, with g(k) = (1+u)^k - 1.
  void Bounds(const Array<Dtype>& x1, const Array<Dtype>& x2, Dtype weight,
              const Array<Dtype>& d, Dtype loss, const Array<Dtype>& dx1,
              const Array<Dtype>& dx2) {
    typedef long double Wide;
    const Wide u = std::numeric_limits<Dtype>::epsilon() / 2;
    const Wide tiny = std::numeric_limits<Dtype>::denorm_min();
    const Wide scale = static_cast<Wide>(weight) / test_.n;
    const Wide growth = std::expm1((test_.c1 + test_.c2 - 1) * std::log1p(u));
    Wide squares = 0;
    bool good_d = true, good_dx = true;
    for (Index n = 0; n < test_.n; ++n) {
      for (Index s = 0; s < test_.s; ++s) {
        Wide sum = 0, size = 0;
        for (Index c = 0; c < test_.c1; ++c) {
          const Wide x = x1[(n * test_.c1 + c) * test_.s + s];
          sum += x;
          size += std::fabs(x);
        }
        for (Index c = 0; c < test_.c2; ++c) {
          const Wide x = x2[(n * test_.c2 + c) * test_.s + s];
          sum -= x;
          size += std::fabs(x);
        }
        const Wide value = d[n * test_.s + s];
        good_d = good_d && std::fabs(value - sum) <= growth * size * (1 + u);
        squares += value * value;
        // A quotient and a product.
        const Wide dx = scale * value;
        const Wide bound = std::fabs(dx) * (2 * u + u * u) * (1 + u)
            + std::fabs(value) * tiny + tiny;
        for (Index c = 0; c < test_.c1; ++c) {
          const Wide got = dx1[(n * test_.c1 + c) * test_.s + s];
          good_dx = good_dx && std::fabs(got - dx) <= bound;
        }
        for (Index c = 0; c < test_.c2; ++c) {
          const Wide got = dx2[(n * test_.c2 + c) * test_.s + s];
          good_dx = good_dx && std::fabs(got + dx) <= bound;
        }
      }
    }
    const Wide expected = squares / (2 * test_.n);
    // In double: each square, each sum, the quotient; then in Dtype.
    const Wide in_double = std::numeric_limits<double>::epsilon() / 2;
    const Wide chain = (test_.n * test_.s + 2) * in_double + u;
    Expect(good_d, "d is beyond its rounding bound");
    Expect(good_dx, "a diff is beyond its rounding bound");
    Expect(std::fabs(loss - expected) <= expected * chain * (1 + u) + tiny,
           "the loss is beyond its rounding bound");
  }

  void Expect(bool holds, const char* otherwise) {
    if (holds) { return; }
    ++wrong_;
    printf("WRONG: %s, N %lld, C1 %lld, C2 %lld, S %lld, %d threads, %d "
           "lanes, %d rows, %d of a thread, %d blocks, shift %d: %s\n",
           Name<Dtype>(), test_.n, test_.c1, test_.c2, test_.s, plan_.threads,
           plan_.lanes, plan_.rows, plan_.vector, plan_.blocks, test_.shift,
           otherwise);
  }

  Test<Dtype> test_;
  Plan plan_;
  int wrong_;
};

// Of a plan for more numbers than an int counts, the last place is the last
// number, and no place lies beyond.
template <typename Dtype>
int CheckGiant(Index n, Index c, Index s) {
  const Plan plan = MakePlan<Dtype>(n, c, c, s);
  Index last = -1;
  for (int t = 0; t < plan.threads; ++t) {
    const Place place = PlaceOf(plan, plan.tiles - 1, t);
    if (place.active) {
      last = std::max(last, place.sample * s + place.position + plan.vector);
    }
  }
  const bool beyond = PlaceOf(plan, plan.tiles, 0).active;
  if (last == n * s && !beyond) { return 0; }
  printf("WRONG: %s, N %lld, C %lld, S %lld: the plan ends at %lld of %lld\n",
         Name<Dtype>(), n, c, s, last, n * s);
  return 1;
}

template <typename Dtype>
int CheckAll() {
  const Test<Dtype> tests[] = {
      // n, c1, c2, s, threads, rows, blocks, shift, wild
      {1, 1, 1, 1, 32, 0, 0, 0, false},
      {1, 1, 1, 1, 1, 0, 0, 0, false},
      {7, 5, 5, 1, 32, 0, 0, 0, false},
      {5, 9, 4, 1, 64, 0, 0, 0, false},
      {9, 300, 300, 1, 256, 0, 0, 0, true},    // rows over several warps
      {3, 37, 300, 1, 128, 0, 2, 0, false},
      {67, 64, 64, 1, 64, 32, 3, 0, false},    // a warp for each sample
      {150, 3, 3, 1, 64, 0, 0, 0, false},
      {4500, 1, 1, 1, 1, 0, 0, 0, false},      // more tiles than blocks
      {300, 2, 1, 1, 2, 0, 7, 0, false},
      {5, 7, 7, 143, 64, 0, 0, 0, true},
      {2, 3, 3, 60, 64, 0, 0, 0, false},       // four or two positions a thread
      {2, 3, 3, 60, 64, 0, 0, 1, false},       // not aligned
      {2, 10, 3, 36, 128, 1, 0, 0, true},      // one row, batches and a rest
      {2, 10, 23, 36, 128, 1, 1, 1, true},
      {3, 23, 10, 33, 32, 1, 3, 0, false},
      {2, 64, 64, 49, 128, 0, 0, 0, false},
      {2, 40, 40, 640, 64, 2, 2, 0, false},
      {4, 3, 7, 30, 64, 0, 0, 0, false},
      {9, 6, 6, 4, 64, 0, 0, 0, false},        // one lane, all four positions
      {9, 6, 6, 4, 64, 0, 0, 3, true},
      {3, 8, 2, 16, 32, 0, 0, 0, false},
      {3, 0, 2, 6, 32, 0, 0, 0, false},        // no channels, no positions
      {3, 2, 2, 0, 32, 0, 0, 0, false},
  };
  int runs = 0, wrong = 0;
  for (const Test<Dtype>& test : tests) {
    ++runs;
    wrong += Run<Dtype>(test).Check();
  }
  wrong += CheckGiant<Dtype>(70001, 64, 70003);
  wrong += CheckGiant<Dtype>(5000000007LL, 3, 1);
  wrong += CheckGiant<Dtype>(3, 2, 5000000004LL);
  printf("%s: %d runs of the kernels and 3 giant plans, %d wrong\n",
         Name<Dtype>(), runs, wrong);
  return wrong;
}

}  // namespace

int main() {
  const int wrong = CheckAll<float>() + CheckAll<double>();
  printf(wrong ? "FAILED\n" : "passed\n");
  return wrong != 0;
}
