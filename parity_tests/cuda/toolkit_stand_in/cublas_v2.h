// The two names of cuBLAS that Caffe's headers use, to compile a layer with a
// toolkit that lacks it. A layer that calls cuBLAS needs the real one.
#pragma once
struct cublasContext;
typedef cublasContext* cublasHandle_t;
enum cublasStatus_t { CUBLAS_STATUS_SUCCESS = 0 };
