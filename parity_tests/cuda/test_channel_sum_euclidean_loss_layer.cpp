// Caffe's own tools on the layer: its test fixtures and its GradientChecker.
// The file also fits into src/caffe/test of a Caffe tree, where it covers the
// GPU as well.

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"

#include "caffe/blob.hpp"
#include "caffe/common.hpp"
#include "caffe/filler.hpp"
#include "caffe/layer_factory.hpp"
#include "caffe/layers/channel_sum_euclidean_loss_layer.hpp"

#include "caffe/test/test_caffe_main.hpp"
#include "caffe/test/test_gradient_check_util.hpp"

namespace caffe {

template <typename TypeParam>
class ChannelSumEuclideanLossLayerTest : public MultiDeviceTest<TypeParam> {
  typedef typename TypeParam::Dtype Dtype;

 protected:
  ChannelSumEuclideanLossLayerTest() {
    bottoms_.push_back(&x1_);
    bottoms_.push_back(&x2_);
    tops_.push_back(&loss_);
    Caffe::set_random_seed(1701);
    Fill(Shape(4, 3, 5, 6), Shape(4, 7, 5, 6));
  }

  // An extent of -1 is an axis that is not there.
  static vector<int> Shape(int n, int c = -1, int s1 = -1, int s2 = -1,
      int s3 = -1) {
    const int extents[] = {n, c, s1, s2, s3};
    vector<int> shape;
    for (int i = 0; i < 5 && extents[i] >= 0; ++i) {
      shape.push_back(extents[i]);
    }
    return shape;
  }

  void Fill(const vector<int>& shape1, const vector<int>& shape2) {
    FillerParameter param;
    GaussianFiller<Dtype> filler(param);
    x1_.Reshape(shape1);
    x2_.Reshape(shape2);
    filler.Fill(&x1_);
    filler.Fill(&x2_);
  }

  static shared_ptr<Layer<Dtype> > Make(double weight) {
    LayerParameter param;
    param.set_name("loss");
    param.set_type("ChannelSumEuclideanLoss");
    param.add_loss_weight(weight);
    return LayerRegistry<Dtype>::CreateLayer(param);
  }

  // The channel sums of a blob, in double, for each of the N * S places.
  static vector<double> Sums(const Blob<Dtype>& x, vector<double>* sizes) {
    const int positions = x.count(2);
    vector<double> sums(x.shape(0) * positions);
    sizes->resize(sums.size());
    for (int i = 0; i < x.count(); ++i) {
      const int place = i / x.count(1) * positions + i % positions;
      sums[place] += x.cpu_data()[i];
      (*sizes)[place] += std::fabs(static_cast<double>(x.cpu_data()[i]));
    }
    return sums;
  }

  // The loss and the diffs within what rounding to Dtype can do (Higham): a
  // sum of T terms is off by at most g(T-1) * sum |terms|, g(k) = (1+u)^k - 1.
  // The sums here are made in double: for double they count twice.
  void ExpectRight(Dtype weight, bool want1, bool want2, Dtype stale) {
    const double u = std::numeric_limits<Dtype>::epsilon();
    const int terms = x1_.shape(1) + x2_.shape(1);
    const double growth = std::expm1((terms + 4) * std::log1p(u));
    vector<double> size1, size2;
    const vector<double> sum1 = Sums(x1_, &size1);
    const vector<double> sum2 = Sums(x2_, &size2);
    const int n = x1_.shape(0);
    const int positions = x1_.count(2);
    vector<double> errors(sum1.size());
    double squares = 0, squares_error = 0;
    for (int i = 0; i < sum1.size(); ++i) {
      const double d = sum1[i] - sum2[i];
      errors[i] = growth * (size1[i] + size2[i]);
      squares += d * d;
      squares_error += errors[i] * (2 * std::fabs(d) + errors[i]);
    }
    squares_error += squares * (sum1.size() + 3.)
        * std::numeric_limits<double>::epsilon();
    const double loss = squares / (2 * n);
    const double got = loss_.cpu_data()[0];
    EXPECT_LE(std::fabs(got - loss),
              squares_error / (2 * n) * (1 + u) + u * loss);
    for (int b = 0; b < 2; ++b) {
      const Blob<Dtype>& x = *bottoms_[b];
      const bool wanted = b == 0 ? want1 : want2;
      for (int i = 0; i < x.count(); ++i) {
        const Dtype diff = x.cpu_diff()[i];
        if (!wanted) {
          EXPECT_EQ(stale, diff) << "a diff was written unasked";
          continue;
        }
        const int place = i / x.count(1) * positions + i % positions;
        const double d = sum1[place] - sum2[place];
        const double scale = (b == 0 ? 1. : -1.) * weight / n;
        const double bound = std::fabs(scale)
            * (errors[place] + 4 * u * (std::fabs(d) + errors[place]));
        ASSERT_LE(std::fabs(diff - scale * d), bound)
            << "bottom " << b << " at " << i << ": " << diff
            << ", expected " << scale * d;
      }
    }
  }

  // Forward and backward over diffs that hold `stale`.
  void Pass(Layer<Dtype>* layer, bool want1, bool want2, Dtype stale) {
    layer->Forward(bottoms_, tops_);
    for (int b = 0; b < 2; ++b) {
      caffe_set(bottoms_[b]->count(), stale, bottoms_[b]->mutable_cpu_diff());
    }
    vector<bool> propagate_down(2);
    propagate_down[0] = want1;
    propagate_down[1] = want2;
    layer->Backward(tops_, propagate_down, bottoms_);
  }

  // The objective is a quadratic, of which a central difference has no error
  // but rounding, whatever the step. So the step is a large one, and the
  // threshold what rounding does to the objective (8 units in its last place),
  // divided by the step: far below the usual 1e-2.
  void CheckGradients() {
    const Dtype step = 0.5;
    shared_ptr<Layer<Dtype> > layer = Make(1);
    layer->SetUp(bottoms_, tops_);
    layer->Forward(bottoms_, tops_);
    const Dtype objective = 2 * loss_.cpu_data()[0];
    const Dtype threshold =
        8 * std::numeric_limits<Dtype>::epsilon() * objective / step;
    ASSERT_LT(threshold, 1e-3);
    GradientChecker<Dtype> checker(step, threshold);
    checker.CheckGradientExhaustive(layer.get(), bottoms_, tops_);
    checker.CheckGradientExhaustive(layer.get(), bottoms_, tops_, 0);
    checker.CheckGradientExhaustive(layer.get(), bottoms_, tops_, 1);
  }

  Blob<Dtype> x1_, x2_, loss_;
  vector<Blob<Dtype>*> bottoms_, tops_;
};

TYPED_TEST_CASE(ChannelSumEuclideanLossLayerTest, TestDtypesAndDevices);

TYPED_TEST(ChannelSumEuclideanLossLayerTest, ForwardIsScaledByTheLossWeight) {
  typedef typename TypeParam::Dtype Dtype;
  shared_ptr<Layer<Dtype> > one = this->Make(1);
  one->SetUp(this->bottoms_, this->tops_);
  const Dtype loss = one->Forward(this->bottoms_, this->tops_);
  EXPECT_EQ(loss, this->loss_.cpu_data()[0]);
  EXPECT_EQ(0, this->loss_.num_axes());
  EXPECT_GT(loss, 1) << "a trivial loss proves nothing";
  const Dtype weights[] = {Dtype(3.7f), Dtype(-2)};
  for (int i = 0; i < 2; ++i) {
    shared_ptr<Layer<Dtype> > layer = this->Make(weights[i]);
    layer->SetUp(this->bottoms_, this->tops_);
    EXPECT_EQ(loss * weights[i], layer->Forward(this->bottoms_, this->tops_));
    EXPECT_EQ(loss, this->loss_.cpu_data()[0]);
  }
}

TYPED_TEST(ChannelSumEuclideanLossLayerTest, EveryWeightBottomAndStaleDiff) {
  typedef typename TypeParam::Dtype Dtype;
  const Dtype weights[] = {Dtype(1), Dtype(3.7f), Dtype(-2)};
  const Dtype nan = std::numeric_limits<Dtype>::quiet_NaN();
  for (int w = 0; w < 3; ++w) {
    shared_ptr<Layer<Dtype> > layer = this->Make(weights[w]);
    layer->SetUp(this->bottoms_, this->tops_);
    for (int wanted = 0; wanted < 4; ++wanted) {
      const bool want1 = wanted & 1, want2 = wanted & 2;
      this->Pass(layer.get(), want1, want2, 7);
      this->ExpectRight(weights[w], want1, want2, 7);
    }
    this->Pass(layer.get(), true, true, nan);
    this->ExpectRight(weights[w], true, true, nan);
  }
}

TYPED_TEST(ChannelSumEuclideanLossLayerTest, AnyNumberOfAxesAndReshape) {
  typedef typename TypeParam::Dtype Dtype;
  shared_ptr<Layer<Dtype> > layer = this->Make(3.7);
  layer->SetUp(this->bottoms_, this->tops_);
  const vector<int> shapes[][2] = {
    {this->Shape(7, 5), this->Shape(7, 5)},
    {this->Shape(3, 2), this->Shape(3, 40)},
    {this->Shape(2, 3, 9), this->Shape(2, 3, 9)},
    {this->Shape(9, 4, 8, 8), this->Shape(9, 1, 8, 8)},
    {this->Shape(2, 3, 4, 5, 3), this->Shape(2, 6, 4, 5, 3)},
    {this->Shape(1, 1), this->Shape(1, 1)},
    {this->Shape(4, 3, 5, 6), this->Shape(4, 7, 5, 6)},
  };
  for (int i = 0; i < 7; ++i) {
    this->Fill(shapes[i][0], shapes[i][1]);
    layer->Reshape(this->bottoms_, this->tops_);
    this->Pass(layer.get(), true, true, 7);
    this->ExpectRight(Dtype(3.7f), true, true, 7);
  }
}

TYPED_TEST(ChannelSumEuclideanLossLayerTest, SameBitsEveryTime) {
  typedef typename TypeParam::Dtype Dtype;
  this->Fill(this->Shape(3, 65, 31), this->Shape(3, 65, 31));
  shared_ptr<Layer<Dtype> > layer = this->Make(3.7);
  layer->SetUp(this->bottoms_, this->tops_);
  this->Pass(layer.get(), true, true, 7);
  const Dtype loss = this->loss_.cpu_data()[0];
  Blob<Dtype> first;
  first.CopyFrom(this->x2_, true, true);
  for (int repeat = 0; repeat < 3; ++repeat) {
    this->Pass(layer.get(), true, true, 7);
    EXPECT_EQ(loss, this->loss_.cpu_data()[0]);
    for (int i = 0; i < first.count(); ++i) {
      ASSERT_EQ(first.cpu_diff()[i], this->x2_.cpu_diff()[i]);
    }
  }
}

TYPED_TEST(ChannelSumEuclideanLossLayerTest, GradientOfTwoAxes) {
  this->Fill(this->Shape(5, 4), this->Shape(5, 6));
  this->CheckGradients();
}

TYPED_TEST(ChannelSumEuclideanLossLayerTest, GradientOfFourAxes) {
  this->Fill(this->Shape(3, 2, 3, 4), this->Shape(3, 2, 3, 4));
  this->CheckGradients();
}

TYPED_TEST(ChannelSumEuclideanLossLayerTest, GradientOfFiveAxes) {
  this->Fill(this->Shape(2, 3, 2, 3, 2), this->Shape(2, 1, 2, 3, 2));
  this->CheckGradients();
}

TYPED_TEST(ChannelSumEuclideanLossLayerTest, BothBottomsMayHaveAGradient) {
  typedef typename TypeParam::Dtype Dtype;
  shared_ptr<Layer<Dtype> > layer = this->Make(1);
  EXPECT_TRUE(layer->AllowForceBackward(0));
  EXPECT_TRUE(layer->AllowForceBackward(1));
}

TYPED_TEST(ChannelSumEuclideanLossLayerTest, OtherShapesAreRefusedByName) {
  typedef typename TypeParam::Dtype Dtype;
  ::testing::FLAGS_gtest_death_test_style = "fast";
  const vector<int> shapes[][2] = {
    {this->Shape(4, 3, 5, 6), this->Shape(3, 3, 5, 6)},
    {this->Shape(4, 3, 5, 6), this->Shape(4, 3, 6, 5)},
    {this->Shape(4, 3, 5, 6), this->Shape(4, 3, 30)},
    {this->Shape(4, 3, 1, 1), this->Shape(4, 3)},
    {this->Shape(4), this->Shape(4)},
    {this->Shape(0, 3, 5), this->Shape(0, 3, 5)},
  };
  for (int i = 0; i < 6; ++i) {
    this->x1_.Reshape(shapes[i][0]);
    this->x2_.Reshape(shapes[i][1]);
    shared_ptr<Layer<Dtype> > layer = this->Make(1);
    std::string both[2];  // as a regular expression
    for (int b = 0; b < 2; ++b) {
      const std::string shape = this->bottoms_[b]->shape_string();
      for (int j = 0; j < shape.size(); ++j) {
        if (shape[j] == '(' || shape[j] == ')') { both[b] += '\\'; }
        both[b] += shape[j];
      }
    }
    EXPECT_DEATH(layer->SetUp(this->bottoms_, this->tops_),
                 both[0] + " and " + both[1]);
  }
}

}  // namespace caffe
