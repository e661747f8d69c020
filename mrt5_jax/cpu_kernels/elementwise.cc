// Root mean square norm and gated GELU on a CPU, forward and backward, as XLA custom calls. Shapes: elementwise.py.
//
// Each reads its inputs once and writes its results once, and computes in float32 in between.

#include <cmath>

#include "threads.h"

namespace {

constexpr int64_t kParts = 16;  // shares of the rows, whatever the number of threads, so that sums do not depend on it

// Thirty-two numbers in float32.
struct Wide {
  Floats half[2];

  template <typename From>
  explicit Wide(const From* from) {
    alignas(64) float numbers[kPanel];
    copy_row(from, numbers);
    for (int h = 0; h < 2; ++h) half[h] = load(numbers + h * kLanes);
  }

  template <typename To>
  void write(To* to) const {
    alignas(64) float numbers[kPanel];
    for (int h = 0; h < 2; ++h) store(numbers + h * kLanes, half[h]);
    copy_row(numbers, to);
  }
};

struct Gelu {
  Floats share;  // of x that remains
  Floats slope;

  // x / (1 + e^-2u) with u = sqrt(2 / pi) (x + 0.044715 x^3), which is x (1 + tanh u) / 2.
  explicit Gelu(Floats x) {
    constexpr float kTwice = 1.5957691216f;
    const Floats square = x * x;
    const Floats exponent = x * (square * 0.044715f + 1.0f) * -kTwice;
    share = 1.0f / (exponential(exponent > 80.0f ? all(80.0f) : exponent) + 1.0f);
    slope = share + share * (1.0f - share) * x * (square * (3 * 0.044715f) + 1.0f) * kTwice;
  }
};

// Calls run(a null pointer to the arrays' numbers).
template <typename Run>
ffi::Error by_type(ffi::DataType type, Run run) {
  if (type == ffi::F32) {
    run(static_cast<float*>(nullptr));
  } else if (type == ffi::BF16) {
    run(static_cast<Bfloat16*>(nullptr));
  } else {
    return ffi::Error::InvalidArgument("norms and GELU take float32 or bfloat16");
  }
  return ffi::Error::Success();
}

// Calls run(first, end) for shares of `count` things.
template <typename Run>
void in_parts(ffi::ThreadPool& pool, int64_t count, Run run) {
  in_parallel(pool, kParts, [&](int64_t part) { run(part, part * count / kParts, (part + 1) * count / kParts); });
}

ffi::Error gated_gelu(ffi::ThreadPool pool, ffi::AnyBuffer gate, ffi::AnyBuffer linear,
                      ffi::Result<ffi::AnyBuffer> hidden) {
  return by_type(gate.element_type(), [&](auto* type) {
    using From = std::remove_pointer_t<decltype(type)>;
    const auto *gates = static_cast<From*>(gate.untyped_data()), *linears = static_cast<From*>(linear.untyped_data());
    auto* results = static_cast<From*>(hidden->untyped_data());
    in_parts(pool, gate.element_count() / kPanel, [&](int64_t, int64_t first, int64_t end) {
      for (int64_t i = first * kPanel; i < end * kPanel; i += kPanel) {
        Wide x(gates + i);
        const Wide factor(linears + i);
        for (int h = 0; h < 2; ++h) x.half[h] *= Gelu(x.half[h]).share * factor.half[h];
        x.write(results + i);
      }
    });
  });
}

ffi::Error gated_gelu_backward(ffi::ThreadPool pool, ffi::AnyBuffer gate, ffi::AnyBuffer linear, ffi::AnyBuffer bar,
                               ffi::Result<ffi::AnyBuffer> gate_bar, ffi::Result<ffi::AnyBuffer> linear_bar) {
  return by_type(gate.element_type(), [&](auto* type) {
    using From = std::remove_pointer_t<decltype(type)>;
    const auto *gates = static_cast<From*>(gate.untyped_data()), *linears = static_cast<From*>(linear.untyped_data());
    const auto* bars = static_cast<From*>(bar.untyped_data());
    auto* gate_bars = static_cast<From*>(gate_bar->untyped_data());
    auto* linear_bars = static_cast<From*>(linear_bar->untyped_data());
    in_parts(pool, gate.element_count() / kPanel, [&](int64_t, int64_t first, int64_t end) {
      for (int64_t i = first * kPanel; i < end * kPanel; i += kPanel) {
        Wide x(gates + i), factor(linears + i);
        const Wide result_bar(bars + i);
        for (int h = 0; h < 2; ++h) {
          const Gelu gelu(x.half[h]);
          const Floats value = x.half[h] * gelu.share;
          x.half[h] = result_bar.half[h] * factor.half[h] * gelu.slope;
          factor.half[h] = result_bar.half[h] * value;
        }
        x.write(gate_bars + i);
        factor.write(linear_bars + i);
      }
    });
  });
}

ffi::Error rms_norm(ffi::ThreadPool pool, ffi::AnyBuffer inputs, ffi::Buffer<ffi::F32> scale,
                    ffi::Result<ffi::AnyBuffer> normed, ffi::Result<ffi::Buffer<ffi::F32>> inverse, float epsilon) {
  const int64_t rows = inputs.dimensions()[0], embed = inputs.dimensions()[1];
  return by_type(inputs.element_type(), [&](auto* type) {
    using From = std::remove_pointer_t<decltype(type)>;
    in_parts(pool, rows, [&](int64_t, int64_t first, int64_t end) {
      for (int64_t row = first; row < end; ++row) {
        const From* from = static_cast<From*>(inputs.untyped_data()) + row * embed;
        Floats squares[2] = {};
        for (int64_t i = 0; i < embed; i += kPanel) {
          const Wide x(from + i);
          for (int h = 0; h < 2; ++h) squares[h] += x.half[h] * x.half[h];
        }
        const float own = 1.0f / std::sqrt(sum(squares[0] + squares[1]) / embed + epsilon);
        inverse->typed_data()[row] = own;
        for (int64_t i = 0; i < embed; i += kPanel) {
          Wide x(from + i);
          const Wide factor(scale.typed_data() + i);
          for (int h = 0; h < 2; ++h) x.half[h] *= own * factor.half[h];
          x.write(static_cast<From*>(normed->untyped_data()) + row * embed + i);
        }
      }
    });
  });
}

// With r the inverse and g = scale * normed_bar: r g - x r^3 mean(x g), and normed_bar x r.
ffi::Error rms_norm_backward(ffi::ThreadPool pool, ffi::AnyBuffer inputs, ffi::Buffer<ffi::F32> scale,
                             ffi::Buffer<ffi::F32> inverse, ffi::AnyBuffer normed_bar,
                             ffi::Result<ffi::AnyBuffer> inputs_bar, ffi::Result<ffi::Buffer<ffi::F32>> scale_bars) {
  const int64_t rows = inputs.dimensions()[0], embed = inputs.dimensions()[1];
  return by_type(inputs.element_type(), [&](auto* type) {
    using From = std::remove_pointer_t<decltype(type)>;
    in_parts(pool, rows, [&](int64_t part, int64_t first, int64_t end) {
      float* scale_bar = scale_bars->typed_data() + part * embed;
      std::fill_n(scale_bar, embed, 0.0f);
      for (int64_t row = first; row < end; ++row) {
        const From* from = static_cast<From*>(inputs.untyped_data()) + row * embed;
        const From* bars = static_cast<From*>(normed_bar.untyped_data()) + row * embed;
        const float own = inverse.typed_data()[row];
        Floats products[2] = {};
        for (int64_t i = 0; i < embed; i += kPanel) {
          const Wide x(from + i), bar(bars + i), factor(scale.typed_data() + i), total(scale_bar + i);
          for (int h = 0; h < 2; ++h) {
            const Floats product = x.half[h] * bar.half[h];
            products[h] += product * factor.half[h];
            store(scale_bar + i + h * kLanes, total.half[h] + product * own);
          }
        }
        const float along = sum(products[0] + products[1]) / embed * own * own;
        for (int64_t i = 0; i < embed; i += kPanel) {
          Wide x(from + i);
          const Wide bar(bars + i), factor(scale.typed_data() + i);
          for (int h = 0; h < 2; ++h) x.half[h] = (bar.half[h] * factor.half[h] - x.half[h] * along) * own;
          x.write(static_cast<From*>(inputs_bar->untyped_data()) + row * embed + i);
        }
      }
    });
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(mrt5_gated_gelu, gated_gelu,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(mrt5_gated_gelu_backward, gated_gelu_backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(mrt5_rms_norm, rms_norm,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<float>("epsilon"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(mrt5_rms_norm_backward, rms_norm_backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::Buffer<ffi::F32>>());
