// Runs the kernels on a GPU, each case several times, and wants the bits that
// the layer's CPU code makes. Arguments: how often (100). compute-sanitizer
// can watch it. Prints a line for each failure; exit status 1 if there is one.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmath>
#include <vector>

#include "launch.cu"

namespace {

void Check(const char* said) {
  if (said) {
    printf("FAILED: %s\n", said);
    exit(1);
  }
}

void Check(cudaError_t error) { Check(Message(error)); }

// Memory of exactly `count` numbers behind `shift` that nobody may touch.
template <typename Dtype>
class OnDevice {
 public:
  OnDevice(Index count, int shift) : memory_(NULL), count_(count),
      shift_(shift) {
    Check(cudaMalloc(&memory_, (count + shift) * sizeof(Dtype) + 1));
    Check(cudaMemset(memory_, 0xff, (count + shift) * sizeof(Dtype) + 1));
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() { cudaFree(memory_); }
  Dtype* begin() { return static_cast<Dtype*>(memory_) + shift_; }
  void Set(const std::vector<Dtype>& values) {
    Check(cudaMemcpy(begin(), values.data(), count_ * sizeof(Dtype),
                     cudaMemcpyHostToDevice));
  }
  std::vector<Dtype> Get() {
    std::vector<Dtype> values(count_);
    Check(cudaMemcpy(values.data(), begin(), count_ * sizeof(Dtype),
                     cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  void* memory_;
  Index count_;
  int shift_;
};

template <typename Dtype>
std::vector<Dtype> Random(Index count, unsigned int seed) {
  std::vector<Dtype> values(count);
  unsigned long long state = seed * 2654435761ULL + 1;  // NOLINT(runtime/int)
  for (Index i = 0; i < count; ++i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    const double value = static_cast<double>(state >> 11) / (1ULL << 52) - 1;
    const int exponent = static_cast<int>(state >> 5 & 31) - 16;
    values[i] = static_cast<Dtype>(std::ldexp(value, exponent));
  }
  return values;
}

template <typename Dtype>
bool Same(const std::vector<Dtype>& a, const std::vector<Dtype>& b) {
  return a.size() == b.size()
      && (a.empty() || !memcmp(a.data(), b.data(), a.size() * sizeof(Dtype)));
}

template <typename Dtype>
int Compare(Index n, Index c1, Index c2, Index s, int shift, int times) {
  const Plan plan = MakePlan<Dtype>(n, c1, c2, s);
  const std::vector<Dtype> x1 = Random<Dtype>(n * c1 * s, 1);
  const std::vector<Dtype> x2 = Random<Dtype>(n * c2 * s, 2);
  const Dtype weight = static_cast<Dtype>(-3.7);
  std::vector<Dtype> d(n * s), dx1(x1.size()), dx2(x2.size());
  const std::vector<Dtype> loss(
      1, ForwardCPU(plan, x1.data(), x2.data(), d.data()));
  const Dtype scale = Scale(weight, n);
  BackwardCPU(plan, c1, scale, d.data(), dx1.data());
  BackwardCPU(plan, c2, -scale, d.data(), dx2.data());

  OnDevice<Dtype> gpu_x1(x1.size(), shift), gpu_x2(x2.size(), shift);
  OnDevice<Dtype> gpu_weight(1, 0);
  gpu_x1.Set(x1);
  gpu_x2.Set(x2);
  gpu_weight.Set(std::vector<Dtype>(1, weight));
  int wrong = 0;
  for (int i = 0; i < times; ++i) {
    OnDevice<Dtype> gpu_d(d.size(), shift), gpu_loss(1, 0);
    OnDevice<Dtype> gpu_dx1(dx1.size(), shift), gpu_dx2(dx2.size(), shift);
    OnDevice<double> partials(plan.blocks, 0);
    Check(Forward(0, plan, gpu_x1.begin(), gpu_x2.begin(), gpu_d.begin(),
                  partials.begin(), gpu_loss.begin(), 0));
    // Sometimes both at once, sometimes one without the other.
    Check(Backward(0, plan, gpu_d.begin(), gpu_weight.begin(),
                   gpu_dx1.begin(), i % 2 ? NULL : gpu_dx2.begin(), 0));
    if (i % 2) {
      Check(Backward<Dtype>(0, plan, gpu_d.begin(), gpu_weight.begin(), NULL,
                            gpu_dx2.begin(), 0));
    }
    Check(cudaDeviceSynchronize());
    wrong += !(Same(gpu_d.Get(), d) && Same(gpu_loss.Get(), loss)
               && Same(gpu_dx1.Get(), dx1) && Same(gpu_dx2.Get(), dx2));
  }
  if (wrong) {
    printf("WRONG: %d bytes a number, N %lld, C1 %lld, C2 %lld, S %lld, shift "
           "%d: other bits than the CPU's in %d of %d runs\n",
           static_cast<int>(sizeof(Dtype)), n, c1, c2, s, shift, wrong, times);
  }
  return wrong;
}

template <typename Dtype>
int CompareAll(int times) {
  const Index shapes[][4] = {
      // n, c1, c2, s
      {1, 1, 1, 1},   {7, 5, 5, 1},    {5, 9, 4, 1},     {9, 300, 300, 1},
      {3, 37, 300, 1}, {67, 64, 64, 1}, {4500, 1, 1, 1},  {5, 7, 7, 143},
      {2, 3, 3, 60},  {2, 10, 23, 36}, {2, 64, 64, 49},  {2, 40, 40, 640},
      {9, 6, 6, 4},   {3, 8, 2, 16},   {3, 0, 2, 6},     {3, 2, 2, 0},
      {8, 64, 64, 3136}, {2100, 3, 3, 4}, {40, 2, 3, 20011},
  };
  int wrong = 0;
  for (const Index* shape : shapes) {
    for (int shift = 0; shift < 2; ++shift) {
      wrong += Compare<Dtype>(shape[0], shape[1], shape[2], shape[3], shift,
                              times);
    }
  }
  return wrong;
}

}  // namespace

int main(int count, char** arguments) {
  const int times = count > 1 ? atoi(arguments[1]) : 100;
  const int wrong = CompareAll<float>(times) + CompareAll<double>(times);
  printf(wrong ? "FAILED\n" : "passed\n");
  return wrong != 0;
}
