// T5 attention on a CPU, forward and backward, as two XLA custom calls. Shapes and meaning: attention.py.
//
// Each thread takes a row and a head at a time and keeps its scores in the cache: 64 queries against all keys forward,
// 128 against 256 keys backward, where scores are computed anew (Dao et al. 2022, section 3.1), 64 by 32 at a time.
// Nothing of the size [query key] reaches memory.

#include "biases.h"

namespace {

struct ForwardOutputs {
  void* values;
  float* softmax;  // [batch heads query 2]: the highest score, and 1 / the sum of powers
  float* excess;   // [batch heads parts]
};

// Adds biases to the scores of 64 queries and 32 keys, in place. `tops` become each query's highest scores so far, in
// vectors; returns what lies above the queries' ceilings.
template <typename SomeBiases>
Floats add_biases(const SomeBiases& some, const float* key_biases, const float* seen, const float* ceilings,
                  float* scores, Floats* tops) {
  Floats over = {};
  for (int query = 0; query < kQueries; ++query, scores += kPanel) {
    Floats bias[2];
    some.of(query, bias);
    for (int half = 0; half < 2; ++half) {
      const int lane = half * kLanes;
      const Floats score = load(scores + lane) + bias[half];
      over += larger(score - ceilings[query], Floats{}) * load(seen + lane);
      const Floats gated = score + load(key_biases + lane);
      tops[query] = larger(gated, tops[query]);
      store(scores + lane, gated);
    }
  }
  return over;
}

template <typename T, typename From>
void forward_head(const Inputs& in, const ForwardOutputs& out, int64_t row, int64_t head, int64_t part, int64_t parts) {
  const Sizes& sizes = in.sizes;
  const int64_t padded = sizes.padded_keys();
  const int width = sizes.width;
  constexpr int64_t kSize = sizeof(T);
  scratch.reserve(Biases::scratch_bytes(sizes) +
                  Scratch::bytes({2 * kSize * padded * width, kSize * kQueries * width, kSize * kQueries * padded,
                                  4 * kQueries * padded, 4 * kQueries * width}));
  const Biases biases(in, row, head);
  T* keys = scratch.take<T>(2 * padded * width);
  T* values = keys + padded * width;
  T* queries = scratch.take<T>(kQueries * width);
  T* weights = scratch.take<T>(kQueries * padded);
  float* scores = scratch.take<float>(kQueries * padded);
  float* results = scratch.take<float>(kQueries * width);
  pack_right_transposed(in.head<From>(in.key, sizes.keys, row, head), 0, padded, width, keys);
  pack_right(in.head<From>(in.value, sizes.keys, row, head), 0, padded, width, values);

  const int64_t blocks = sizes.padded_queries() / kQueries;
  Floats over = {};
  for (int64_t begin = part * blocks / parts * kQueries; begin < (part + 1) * blocks / parts * kQueries;
       begin += kQueries) {
    const int rows = static_cast<int>(std::min<int64_t>(kQueries, sizes.queries - begin));
    pack_left(in.head<From>(in.query, sizes.queries, row, head), begin, kQueries, width, queries);
    alignas(64) Floats tops[kQueries];
    float ceilings[kQueries];
    for (int query = 0; query < kQueries; ++query) {
      tops[query] = all(in.softmax1 ? 0.0f : -INFINITY);
      const bool counted = query < rows && in.counted[row * sizes.queries + begin + query];
      ceilings[query] = counted ? kScoreCeiling : INFINITY;
    }
    for (int64_t key = 0; key < padded; key += kPanel) {
      float* own = scores + key * kQueries;
      multiply<false>(queries, kQueries, keys + key * width, width, own, kQueries);
      with_biases(biases, sizes, begin, key, nullptr, [&](const auto& some) {
        over += add_biases(some, biases.key_bias + key, biases.seen + key, ceilings, own, tops);
      });
    }
    for (int query = 0; query < kQueries; query += 2) {
      const float top[2] = {largest(tops[query]), largest(tops[query + 1])};
      Floats totals[2] = {};
      for (int64_t key = 0; key < padded; key += kPanel) {
        Floats powers[2][2];
        for (int r = 0; r < 2; ++r) {
          for (int half = 0; half < 2; ++half) {
            const float* at = scores + key * kQueries + (query + r) * kPanel + half * kLanes;
            powers[r][half] = exponential(load(at) - top[r]);
            totals[r] += powers[r][half];
          }
        }
        put_left(weights + key * kQueries, query, powers);
      }
      for (int r = 0; r < 2 && query + r < rows; ++r) {
        const float total = sum(totals[r]) + (in.softmax1 ? std::exp(-top[r]) : 0.0f);
        // Without any key that it sees a query receives zeros.
        float* softmax = out.softmax + ((row * sizes.heads + head) * sizes.queries + begin + query + r) * 2;
        softmax[0] = top[r];
        softmax[1] = top[r] < kUnseen ? 0.0f : 1.0f / total;
      }
    }
    for (int column = 0; column < width; column += kPanel) {
      multiply<false>(weights, kQueries, values + column * padded, static_cast<int>(padded), results + column * kQueries,
                      kQueries);
    }
    for (int query = 0; query < rows; ++query) {
      const float share = out.softmax[((row * sizes.heads + head) * sizes.queries + begin + query) * 2 + 1];
      for (int column = 0; column < width; column += kPanel) {
        float* result = results + column * kQueries + query * kPanel;
        for (int i = 0; i < kPanel; ++i) result[i] *= share;
      }
    }
    unpack(results, kQueries, begin, rows, width, in.head<From>(out.values, sizes.queries, row, head));
  }
  out.excess[(row * sizes.heads + head) * parts + part] = sum(over);
}

struct BackwardInputs {
  const void *values, *values_bar;
  const float *softmax, *excess_bar;
};

struct BackwardOutputs {
  void *query_bar, *key_bar, *value_bar;
  float *key_bias_bar, *table_bar;  // [batch heads key], [batch heads distances]
};

// dot(values, values_bar) of each query: what a softmax's gradient subtracts.
template <typename From>
void row_products(Rows<From> values, Rows<From> bars, int width, float* products) {
  for (int64_t query = 0; query < values.count; ++query) {
    Floats total = {};
    for (int column = 0; column < width; column += kPanel) {
      alignas(64) float value[kPanel], bar[kPanel];
      copy_row(values.at(query, column), value);
      copy_row(bars.at(query, column), bar);
      for (int half = 0; half < kPanel; half += kLanes) total += load(value + half) * load(bar + half);
    }
    products[query] = sum(total);
  }
}

// What a block of 64 queries needs backward. Queries of the padding attend to nothing.
struct QueryBlock {
  float top[kQueries], share[kQueries];  // of the softmax: its highest score, and 1 / the sum of powers
  float product[kQueries];               // dot(values, values_bar)
  float excess_bar[kQueries];
  bool penalised;

  QueryBlock(const Inputs& in, const BackwardInputs& given, const float* products, int64_t row, int64_t head,
             int64_t begin) {
    const int64_t item = row * in.sizes.heads + head;
    penalised = given.excess_bar[item] != 0;
    for (int i = 0; i < kQueries; ++i) {
      const int64_t query = begin + i;
      const bool real = query < in.sizes.queries;
      const float* softmax = given.softmax + (item * in.sizes.queries + query) * 2;
      top[i] = real ? softmax[0] : -kUnseen;
      share[i] = real ? softmax[1] : 0;
      product[i] = real ? products[query] : 0;
      excess_bar[i] = real && in.counted[row * in.sizes.queries + query] ? given.excess_bar[item] : 0;
    }
  }
};

// Attention weights of 64 queries and 32 keys, and gradients of their scores, as factors.
template <typename T>
struct Factors {
  T *weights, *score_bars_left, *score_bars_right;
};

// Computes `factors` from products of queries and keys, [64 32], and of values_bar and values; adds to key_bias_bar.
template <typename T, typename SomeBiases>
void score_gradients(SomeBiases some, const QueryBlock& block, const float* key_biases, const float* seen,
                     const float* scores, const float* weight_bars, float* key_bias_bar, Factors<T> factors) {
  const Floats key_bias[2] = {load(key_biases), load(key_biases + kLanes)};
  const Floats is_seen[2] = {load(seen), load(seen + kLanes)};
  Floats key_bars[2] = {load(key_bias_bar), load(key_bias_bar + kLanes)};
  for (int query = 0; query < kQueries; query += 2) {
    Floats weight[2][2], score_bar[2][2];
    for (int r = 0; r < 2; ++r) {
      const int mine = query + r;
      Floats bias[2];
      some.of(mine, bias);
      for (int half = 0; half < 2; ++half) {
        const int at = mine * kPanel + half * kLanes;
        const Floats score = load(scores + at) + bias[half];
        weight[r][half] = exponential(score + key_bias[half] - block.top[mine]) * block.share[mine];
        score_bar[r][half] = weight[r][half] * (load(weight_bars + at) - block.product[mine]);
        key_bars[half] += score_bar[r][half];
        if (!block.penalised) continue;
        score_bar[r][half] += score > kScoreCeiling ? is_seen[half] * block.excess_bar[mine] : Floats{};
      }
      some.add(mine, score_bar[r]);
    }
    put_right(factors.weights, query, weight);
    put_left(factors.score_bars_left, query, score_bar);
    put_right(factors.score_bars_right, query, score_bar);
  }
  some.finish();
  for (int half = 0; half < 2; ++half) store(key_bias_bar + half * kLanes, key_bars[half]);
}

// Panels [count/32][width][32] to rows [begin, begin + count), as far as the matrix has them. `rows` has room for 32.
template <typename To>
void write_transposed(const float* panels, int width, int64_t begin, int count, float* rows, Rows<To> matrix) {
  for (int first = 0; first < count; first += kPanel) {
    pack_left_transposed(Rows<const float>{panels + first * width, width, kPanel}, 0, width, kPanel, rows);
    unpack(rows, kPanel, begin + first, std::min<int64_t>(kPanel, matrix.count - begin - first), width, matrix);
  }
}

template <typename T, typename From>
void backward_head(const Inputs& in, const BackwardInputs& given, const BackwardOutputs& out, int64_t row,
                   int64_t head) {
  const Sizes& sizes = in.sizes;
  const int64_t padded = sizes.padded_keys(), padded_queries = sizes.padded_queries(), item = row * sizes.heads + head;
  const int width = sizes.width;
  constexpr int64_t kSize = sizeof(T);
  scratch.reserve(Biases::scratch_bytes(sizes) + TableGradients::scratch_bytes(sizes) +
                  Scratch::bytes({3 * kSize * padded * width, 4 * kSize * padded_queries * width,
                                  3 * kSize * kStretch * kKeys, 2 * 4 * kQueries * kPanel, 2 * 4 * kKeys * width,
                                  4 * kPanel * width, 4 * padded_queries * width, 4 * padded_queries, 4 * padded}));
  const Biases biases(in, row, head);
  TableGradients table_bars(sizes);
  const int64_t key_size = padded * width, query_size = padded_queries * width;
  T* keys = scratch.take<T>(3 * key_size);
  T *keys_transposed = keys + key_size, *values_transposed = keys + 2 * key_size;
  T* queries = scratch.take<T>(4 * query_size);
  T *bars = queries + query_size, *queries_transposed = bars + query_size;
  T* bars_transposed = queries_transposed + query_size;
  T* weights = scratch.take<T>(3 * kStretch * kKeys);
  T* score_bars_left = weights + kStretch * kKeys;
  T* score_bars_right = score_bars_left + kStretch * kKeys;
  float* scores = scratch.take<float>(2 * kQueries * kPanel);
  float* weight_bars = scores + kQueries * kPanel;
  float* keys_bar = scratch.take<float>(2 * kKeys * width);
  float* values_bar = keys_bar + kKeys * width;
  float* rows_by_key = scratch.take<float>(kPanel * width);
  float* queries_bar = scratch.take<float>(query_size);
  float* products = scratch.take<float>(padded_queries);
  float* key_bias_bar = scratch.take<float>(padded);

  const auto key_head = in.head<From>(in.key, sizes.keys, row, head);
  const auto query_head = in.head<From>(in.query, sizes.queries, row, head);
  const auto bar_head = in.head<From>(given.values_bar, sizes.queries, row, head);
  pack_right(key_head, 0, padded, width, keys);
  pack_right_transposed(key_head, 0, padded, width, keys_transposed);
  pack_right_transposed(in.head<From>(in.value, sizes.keys, row, head), 0, padded, width, values_transposed);
  pack_left(query_head, 0, padded_queries, width, queries);
  pack_left(bar_head, 0, padded_queries, width, bars);
  pack_left_transposed(query_head, 0, padded_queries, width, queries_transposed);
  pack_left_transposed(bar_head, 0, padded_queries, width, bars_transposed);
  row_products(in.head<From>(given.values, sizes.queries, row, head), bar_head, width, products);
  std::memset(queries_bar, 0, padded_queries * width * sizeof(float));
  std::memset(key_bias_bar, 0, padded * sizeof(float));

  for (int64_t first = 0; first < padded; first += kKeys) {
    const int block = static_cast<int>(std::min<int64_t>(kKeys, padded - first));
    std::memset(keys_bar, 0, 2 * kKeys * width * sizeof(float));
    for (int64_t begin = 0; begin < padded_queries; begin += kStretch) {
      const int stretch = static_cast<int>(std::min<int64_t>(kStretch, padded_queries - begin));
      for (int query = 0; query < stretch; query += kQueries) {
        const QueryBlock query_block(in, given, products, row, head, begin + query);
        const int64_t from = (begin + query) * kPanel;
        for (int key = 0; key < block; key += kPanel) {
          const int64_t k = first + key, at = key * stretch + query * kPanel;
          multiply<false>(queries + from, padded_queries, keys_transposed + k * width, width, scores, kQueries);
          multiply<false>(bars + from, padded_queries, values_transposed + k * width, width, weight_bars, kQueries);
          const Factors<T> factors = {weights + at, score_bars_left + at, score_bars_right + at};
          with_biases(biases, sizes, begin + query, k, &table_bars, [&](const auto& some) {
            score_gradients<T>(some, query_block, biases.key_bias + k, biases.seen + k, scores, weight_bars,
                               key_bias_bar + k, factors);
          });
        }
      }
      for (int column = 0; column < width; column += kPanel) {
        multiply<true>(score_bars_left, stretch, keys + column * padded + first * kPanel, block,
                       queries_bar + column * padded_queries + begin * kPanel, stretch);
      }
      for (int key = 0; key < block; key += kPanel) {
        const int64_t left = begin * width, right = key * stretch;
        multiply<true>(queries_transposed + left, width, score_bars_right + right, stretch, keys_bar + key * width, width);
        multiply<true>(bars_transposed + left, width, weights + right, stretch, values_bar + key * width, width);
      }
    }
    write_transposed(keys_bar, width, first, block, rows_by_key, in.head<From>(out.key_bar, sizes.keys, row, head));
    write_transposed(values_bar, width, first, block, rows_by_key, in.head<From>(out.value_bar, sizes.keys, row, head));
  }
  unpack(queries_bar, padded_queries, 0, sizes.queries, width,
         in.head<From>(out.query_bar, sizes.queries, row, head));
  std::memcpy(out.key_bias_bar + item * sizes.keys, key_bias_bar, sizes.keys * sizeof(float));
  table_bars.write(biases, out.table_bar + item * sizes.distances);
}

Inputs read(const ffi::AnyBuffer& query, const ffi::AnyBuffer& key, const ffi::AnyBuffer& value,
            const ffi::Buffer<ffi::F32>& key_bias, const ffi::Buffer<ffi::F32>& table,
            const ffi::Buffer<ffi::S32>& query_positions, const ffi::Buffer<ffi::S32>& key_positions,
            const ffi::Buffer<ffi::PRED>& counted, bool causal, bool softmax1) {
  const auto shape = query.dimensions();
  const Sizes sizes = {shape[0], shape[1], key.dimensions()[1], shape[2], static_cast<int>(shape[3]),
                       table.dimensions()[1], query_positions.dimensions()[0]};
  return {sizes, query.untyped_data(), key.untyped_data(), value.untyped_data(), key_bias.typed_data(),
          table.typed_data(), query_positions.typed_data(), key_positions.typed_data(), counted.typed_data(), causal,
          softmax1};
}

// Calls run(factor type, array type); products of bfloat16 arrays are float ones where there are no tiles.
template <typename Run>
ffi::Error by_type(ffi::DataType type, Run run) {
  if (type == ffi::F32) {
    run(float{}, float{});
  } else if (type == ffi::BF16) {
#ifdef HAS_TILES
    if (Tiles::allowed()) {
      run(Bfloat16{}, Bfloat16{});
      return ffi::Error::Success();
    }
#endif
    run(float{}, Bfloat16{});
  } else {
    return ffi::Error::InvalidArgument("attention takes float32 or bfloat16");
  }
  return ffi::Error::Success();
}

ffi::Error forward(ffi::ThreadPool pool, ffi::AnyBuffer query, ffi::AnyBuffer key, ffi::AnyBuffer value,
                   ffi::Buffer<ffi::F32> key_bias, ffi::Buffer<ffi::F32> table, ffi::Buffer<ffi::S32> query_positions,
                   ffi::Buffer<ffi::S32> key_positions, ffi::Buffer<ffi::PRED> counted,
                   ffi::Result<ffi::AnyBuffer> values, ffi::Result<ffi::Buffer<ffi::F32>> softmax,
                   ffi::Result<ffi::Buffer<ffi::F32>> excess, bool causal, bool softmax1) {
  const Inputs in = read(query, key, value, key_bias, table, query_positions, key_positions, counted, causal, softmax1);
  const ForwardOutputs out = {values->untyped_data(), softmax->typed_data(), excess->typed_data()};
  const int64_t heads = in.sizes.heads, parts = excess->dimensions()[2];
  return by_type(query.element_type(), [&](auto factor, auto array) {
    using Factor = decltype(factor);
    using Array = decltype(array);
    in_parallel(pool, in.sizes.batch * heads * parts, [&](int64_t item) {
      [[maybe_unused]] Ready<Factor> ready;
      forward_head<Factor, Array>(in, out, item / parts / heads, item / parts % heads, item % parts, parts);
    });
  });
}

ffi::Error backward(ffi::ThreadPool pool, ffi::AnyBuffer query, ffi::AnyBuffer key, ffi::AnyBuffer value,
                    ffi::Buffer<ffi::F32> key_bias, ffi::Buffer<ffi::F32> table, ffi::Buffer<ffi::S32> query_positions,
                    ffi::Buffer<ffi::S32> key_positions, ffi::Buffer<ffi::PRED> counted, ffi::AnyBuffer values,
                    ffi::Buffer<ffi::F32> softmax, ffi::AnyBuffer values_bar, ffi::Buffer<ffi::F32> excess_bar,
                    ffi::Result<ffi::AnyBuffer> query_bar, ffi::Result<ffi::AnyBuffer> key_bar,
                    ffi::Result<ffi::AnyBuffer> value_bar, ffi::Result<ffi::Buffer<ffi::F32>> key_bias_bar,
                    ffi::Result<ffi::Buffer<ffi::F32>> table_bar, bool causal, bool softmax1) {
  const Inputs in = read(query, key, value, key_bias, table, query_positions, key_positions, counted, causal, softmax1);
  const BackwardInputs given = {values.untyped_data(), values_bar.untyped_data(), softmax.typed_data(),
                                excess_bar.typed_data()};
  const BackwardOutputs out = {query_bar->untyped_data(), key_bar->untyped_data(), value_bar->untyped_data(),
                               key_bias_bar->typed_data(), table_bar->typed_data()};
  const int64_t heads = in.sizes.heads;
  return by_type(query.element_type(), [&](auto factor, auto array) {
    using Factor = decltype(factor);
    using Array = decltype(array);
    in_parallel(pool, in.sizes.batch * heads, [&](int64_t item) {
      [[maybe_unused]] Ready<Factor> ready;
      backward_head<Factor, Array>(in, given, out, item / heads, item % heads);
    });
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(mrt5_attention, forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::PRED>>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<bool>("causal")
                                  .Attr<bool>("softmax1"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(mrt5_attention_backward, backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::PRED>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<bool>("causal")
                                  .Attr<bool>("softmax1"));
