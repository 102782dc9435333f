// Counts the kernels that a process launches through CUDA's runtime library.
//
// The worker loads this library before Caffe, with its symbols visible to all:
// the launches of every library that comes later then arrive here. It links to
// nothing, not even to libc, so any compiler for this machine can make it:
//   c++ -shared -fPIC -O1 -nostdlib count_launches.cpp

namespace {

struct Extent {  // CUDA's dim3
  unsigned int x, y, z;
};

typedef int (*Launch)(const void* kernel, Extent grid, Extent block,
    void** arguments, unsigned long shared, void* stream);  // NOLINT

const int kUnknownError = 999;  // cudaErrorUnknown
unsigned long long launches = 0;  // NOLINT(runtime/int)
Launch real_launch = 0;
Launch real_handle_launch = 0;

}  // namespace

extern "C" {

// The two that code of nvcc calls: up to CUDA 12, and since.
int cudaLaunchKernel(const void* kernel, Extent grid, Extent block,
    void** arguments, unsigned long shared, void* stream) {  // NOLINT
  __atomic_add_fetch(&launches, 1, __ATOMIC_RELAXED);
  return real_launch
      ? real_launch(kernel, grid, block, arguments, shared, stream)
      : kUnknownError;
}

int __cudaLaunchKernel(const void* kernel, Extent grid, Extent block,
    void** arguments, unsigned long shared, void* stream) {  // NOLINT
  __atomic_add_fetch(&launches, 1, __ATOMIC_RELAXED);
  return real_handle_launch
      ? real_handle_launch(kernel, grid, block, arguments, shared, stream)
      : kUnknownError;
}

// Where launches go on to; NULL for one that CUDA's library does not have.
void parity_forward_launches_to(Launch launch, Launch handle_launch) {
  real_launch = launch;
  real_handle_launch = handle_launch;
}

// The launches since the last call.
unsigned long long parity_take_launches() {  // NOLINT(runtime/int)
  return __atomic_exchange_n(&launches, 0, __ATOMIC_RELAXED);
}

}  // extern "C"
