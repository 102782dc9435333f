// torch_impl/cuda/launch.cu on the CPU: every GPU thread a thread of the
// system, every barrier a real one. The functions that PyTorch calls are then
// tried where there is no GPU: names, arguments, types, order and all.

#include <barrier>  // NOLINT(build/c++11)
#include <memory>
#include <thread>  // NOLINT(build/c++11)
#include <vector>

#include "channel_sum_euclidean_loss_kernels.hpp"

// What launch.cu needs of CUDA.
typedef void* cudaStream_t;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidDevice = 101 };

// There is one device, number 0.
static cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}
static cudaError_t cudaGetLastError() { return cudaSuccess; }
static const char* cudaGetErrorString(cudaError_t) {
  return "invalid device ordinal";
}

static int launched_blocks;
static int launched_threads;
#define LAUNCH(kernel, blocks, threads, stream) \
  (void)stream; \
  launched_blocks = blocks; \
  launched_threads = threads; \
  kernel

namespace caffe {
namespace channel_sum {

struct HostThread {
  int index_, block_;
  std::barrier<>* all;
  std::barrier<>* warp;
  int index() const { return index_; }
  int block() const { return block_; }
  int blocks() const { return launched_blocks; }
  void Sync() const { all->arrive_and_wait(); }
  void SyncWarp() const { warp->arrive_and_wait(); }
};

// Runs one block after another, since shared memory belongs to one.
template <typename Body>
void EachThread(const Body& body) {
  std::barrier<> all(launched_threads);
  std::vector<std::unique_ptr<std::barrier<>>> warps;
  for (int t = 0; t < launched_threads; t += kWarp) {
    warps.emplace_back(new std::barrier<>(kWarp));
  }
  std::vector<std::thread> running;
  for (int t = 0; t < launched_threads; ++t) {
    running.emplace_back([&, t] {
      for (int block = 0; block < launched_blocks; ++block) {
        body(HostThread{t, block, &all, warps[t / kWarp].get()});
        all.arrive_and_wait();
      }
    });
  }
  for (std::thread& thread : running) { thread.join(); }
}

template <typename Dtype, int kVector, bool kAligned>
void ForwardKernel(Plan plan, const Dtype* x1, const Dtype* x2, Dtype* d,
    double* partials) {
  std::vector<Dtype> sums(kThreads * kVector);
  std::vector<double> squares(kThreads);
  EachThread([&](const HostThread& thread) {
    ForwardBlock<Dtype, kVector, kAligned>(thread, plan, x1, x2, d, partials,
        sums.data(), squares.data());
  });
}

template <typename Dtype>
void FinishKernel(Plan plan, const double* partials, Dtype* loss) {
  std::vector<double> squares(kThreads);
  EachThread([&](const HostThread& thread) {
    FinishBlock(thread, plan, partials, loss, squares.data());
  });
}

template <typename Dtype, int kVector, bool kAligned>
void BackwardKernel(Plan plan, const Dtype* d, const Dtype* weight, Dtype* dx1,
    Dtype* dx2) {
  EachThread([&](const HostThread& thread) {
    BackwardBlock<Dtype, kVector, kAligned>(thread, plan, d, weight, dx1, dx2);
  });
}

}  // namespace channel_sum
}  // namespace caffe

#include "launch.cu"
