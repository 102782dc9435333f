// The two names of cuRAND that Caffe's headers use; see cublas_v2.h.
#pragma once
struct curandGenerator_st;
typedef curandGenerator_st* curandGenerator_t;
enum curandStatus_t { CURAND_STATUS_SUCCESS = 0 };
