// T5 attention on a CPU, forward and backward, as two XLA custom calls. Shapes and meaning: attention.py.
//
// Each thread takes a row and a head at a time and keeps its scores in the cache: 64 queries against all keys forward,
// against 256 keys backward, where scores are computed anew (Dao et al. 2022, section 3.1). Nothing of the size
// [query key] reaches memory.

#include <cmath>

#include "threads.h"

namespace {

constexpr int kQueries = 64;      // a block of queries
constexpr int kKeys = 256;        // a block of keys, backward
constexpr float kUnseen = -1e29f;  // keys with a lower bias are masked
constexpr float kScoreCeiling = 5.0f;

struct Sizes {
  int64_t batch, queries, keys, heads;
  int width;
  int64_t distances, position_rows;

  int64_t padded_keys() const { return round_up(keys, kPanel); }
  int64_t padded_queries() const { return round_up(queries, kQueries); }
};

// What is the same for every head and both passes.
struct Inputs {
  Sizes sizes;
  const void *query, *key, *value;
  const float *key_bias, *table;
  const int32_t *query_positions, *key_positions;
  const bool* counted;
  bool causal, softmax1;

  template <typename From>
  Head<From> head(const void* array, int64_t length, int64_t row, int64_t number) const {
    const int64_t stride = sizes.heads * sizes.width;
    return {static_cast<const From*>(array) + row * length * stride + number * sizes.width, length, stride};
  }
};

// The biases of one row and head. Where positions follow each other, a query's biases lie side by side on a diagonal;
// else keys that all lie far away share one, and others are looked up.
class Biases {
 public:
  static int64_t scratch_bytes(const Sizes& sizes) {
    return Scratch::bytes({4 * 5 * sizes.padded_keys(), 4 * (sizes.queries + sizes.padded_keys())});
  }

  Biases(const Inputs& in, int64_t row, int64_t head) : sizes_(in.sizes) {
    const int64_t padded = sizes_.padded_keys(), shared = sizes_.position_rows == 1 ? 0 : row;
    far_ = static_cast<int>(sizes_.distances / 2);
    query_positions_ = in.query_positions + shared * sizes_.queries;
    table_ = in.table + head * sizes_.distances;
    key_bias = scratch.take<float>(5 * padded);
    seen = key_bias + padded;
    key_positions_ = reinterpret_cast<int32_t*>(seen + padded);
    for (int64_t k = 0; k < padded; ++k) {
      const bool real = k < sizes_.keys;
      key_bias[k] = real ? in.key_bias[row * sizes_.keys + k] : -INFINITY;
      seen[k] = key_bias[k] > kUnseen;
      key_positions_[k] = in.key_positions[shared * sizes_.keys + std::min(k, sizes_.keys - 1)];
    }
    nearest_ = key_positions_ + padded;
    farthest_ = nearest_ + padded / kPanel;
    for (int64_t panel = 0; panel < padded / kPanel; ++panel) {
      const int32_t* first = key_positions_ + panel * kPanel;
      nearest_[panel] = *std::min_element(first, first + kPanel);
      farthest_[panel] = *std::max_element(first, first + kPanel);
    }
    causal_ = in.causal;
    straight = follow(query_positions_, sizes_.queries) && follow(key_positions_, sizes_.keys);
    diagonal_ = scratch.take<float>(sizes_.queries + padded);
    if (!straight) return;
    const int first = key_positions_[0] - query_positions_[0] - static_cast<int>(sizes_.queries - 1);
    for (int64_t i = 0; i < sizes_.queries + padded; ++i) {
      const bool hidden = causal_ && i > sizes_.queries - 1;
      diagonal_[i] = hidden ? -INFINITY : table_[bin(first + static_cast<int>(i))];
    }
  }

  // Those of keys [key, key + 32).
  void of(int64_t query, int64_t key, Floats (&biases)[2]) const {
    if (straight) {
      for (int half = 0; half < 2; ++half) biases[half] = load(diagonal_ + diagonal(query, key) + half * kLanes);
    } else if (const int far = side(query, key)) {
      biases[0] = biases[1] = all(table_[bin(far * far_)]);
    } else {
      alignas(64) float looked_up[kPanel];
      for (int i = 0; i < kPanel; ++i) looked_up[i] = table_[bin(query, key + i)];
      for (int half = 0; half < 2; ++half) biases[half] = load(looked_up + half * kLanes);
    }
    if (!causal_ || straight) return;
    for (int64_t i = std::max<int64_t>(query + 1 - key, 0); i < kPanel; ++i) biases[i / kLanes][i % kLanes] = -INFINITY;
  }

  // Whether keys [key, key + 32) all lie farther before (-1) or after (1) a query than distances are told apart.
  int side(int64_t query, int64_t key) const {
    const int own = query_positions_[query];
    return (nearest_[key / kPanel] - own >= far_) - (farthest_[key / kPanel] - own <= -far_);
  }

  int64_t diagonal(int64_t query, int64_t key) const { return sizes_.queries - 1 - query + key; }

  int bin(int distance) const { return std::clamp(distance, -far_, far_) + far_; }

  int bin(int64_t query, int64_t key) const { return bin(key_positions_[key] - query_positions_[query]); }

  // The distance bin of a place on the diagonal.
  int bin_of_diagonal(int64_t place) const {
    return bin(key_positions_[0] - query_positions_[0] + static_cast<int>(place - (sizes_.queries - 1)));
  }

  float* key_bias;
  float* seen;  // 1 or 0 for each key
  bool straight;

 private:
  static bool follow(const int32_t* positions, int64_t count) {
    for (int64_t i = 1; i < count; ++i) {
      if (positions[i] != positions[0] + i) return false;
    }
    return true;
  }

  Sizes sizes_;
  bool causal_;
  int far_;
  const int32_t* query_positions_;
  const float* table_;
  int32_t *key_positions_, *nearest_, *farthest_;  // of each key; of each panel of keys
  float* diagonal_;
};

struct ForwardOutputs {
  void* values;
  float* softmax;  // [batch heads query 2]: the highest score, and 1 / the sum of powers
  float* excess;   // [batch heads parts]
};

// Scores of one query, in place: adds the biases. Returns the highest, and adds up what lies above the ceiling.
inline float add_biases(const Biases& biases, int64_t query, int64_t padded, float* scores, float* excess) {
  Floats top = all(-INFINITY), over = all(0);
  for (int64_t key = 0; key < padded; key += kPanel) {
    Floats bias[2];
    biases.of(query, key, bias);
    for (int half = 0; half < 2; ++half) {
      float* at = scores + key * kQueries + half * kLanes;
      const int64_t k = key + half * kLanes;
      const Floats score = load(at) + bias[half];
      over += larger(score - kScoreCeiling, all(0)) * load(biases.seen + k);
      const Floats gated = score + load(biases.key_bias + k);
      top = larger(gated, top);
      store(at, gated);
    }
  }
  *excess += sum(over);
  return largest(top);
}

template <typename T, typename From>
void forward_head(const Inputs& in, const ForwardOutputs& out, int64_t row, int64_t head, int64_t part, int64_t parts) {
  const Sizes& sizes = in.sizes;
  const int64_t padded = sizes.padded_keys();
  const int width = sizes.width;
  constexpr int64_t kSize = sizeof(T);
  scratch.reserve(Biases::scratch_bytes(sizes) +
                  Scratch::bytes({3 * kSize * padded * width, kSize * kQueries * width, kSize * kQueries * padded,
                                  4 * kQueries * padded, 4 * kQueries * width}));
  const Biases biases(in, row, head);
  T* packed = scratch.take<T>(3 * padded * width);
  T* keys = packed + padded * width;
  T* queries = scratch.take<T>(kQueries * width);
  T* weights = scratch.take<T>(kQueries * padded);
  float* scores = scratch.take<float>(kQueries * padded);
  float* results = scratch.take<float>(kQueries * width);
  pack(in.head<From>(in.key, sizes.keys, row, head), 0, padded, width, packed);
  transpose(packed, padded, width, keys);
  pack(in.head<From>(in.value, sizes.keys, row, head), 0, padded, width, packed);
  const T* values = as_right(packed, padded * width / kPanel, keys + padded * width);

  const int64_t blocks = sizes.padded_queries() / kQueries;
  float excess = 0;
  for (int64_t begin = part * blocks / parts * kQueries; begin < (part + 1) * blocks / parts * kQueries;
       begin += kQueries) {
    const int rows = static_cast<int>(std::min<int64_t>(kQueries, sizes.queries - begin));
    pack(in.head<From>(in.query, sizes.queries, row, head), begin, kQueries, width, queries);
    for (int64_t key = 0; key < padded; key += kPanel) {
      multiply<false>(queries, kQueries, keys + key * width, width, scores + key * kQueries, kQueries);
    }
    for (int query = 0; query < rows; query += 2) {
      float top[2], total[2];
      Floats totals[2] = {};
      for (int r = 0; r < 2; ++r) {
        // A last odd query is done twice, and once is kept.
        const int64_t mine = std::min<int64_t>(begin + query + r, sizes.queries - 1);
        float own_excess = 0;
        top[r] = add_biases(biases, mine, padded, scores + (query + r) * kPanel, &own_excess);
        if (in.softmax1) top[r] = std::max(top[r], 0.0f);
        if (query + r < rows && in.counted[row * sizes.queries + mine]) excess += own_excess;
      }
      for (int64_t key = 0; key < padded; key += kPanel) {
        Floats powers[2][2];
        for (int r = 0; r < 2; ++r) {
          for (int half = 0; half < 2; ++half) {
            const float* at = scores + key * kQueries + (query + r) * kPanel + half * kLanes;
            powers[r][half] = exponential(load(at) - top[r]);
            totals[r] += powers[r][half];
          }
        }
        put_rows(weights + key * kQueries, static_cast<T*>(nullptr), query, powers);
      }
      for (int r = 0; r < 2 && query + r < rows; ++r) {
        total[r] = sum(totals[r]) + (in.softmax1 ? std::exp(-top[r]) : 0.0f);
        // Without any key that it sees a query receives zeros.
        float* softmax = out.softmax + ((row * sizes.heads + head) * sizes.queries + begin + query + r) * 2;
        softmax[0] = top[r];
        softmax[1] = top[r] < kUnseen ? 0.0f : 1.0f / total[r];
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
  out.excess[(row * sizes.heads + head) * parts + part] = excess;
}

struct BackwardInputs {
  const void *values, *values_bar;
  const float *softmax, *excess_bar;
};

struct BackwardOutputs {
  void *query_bar, *key_bar, *value_bar;
  float *key_bias_bar, *table_bar;  // [batch heads key], [batch heads distances]
};

// Adds up gradients of biases by distance.
class BiasGradients {
 public:
  static int64_t scratch_bytes(const Sizes& sizes) { return Scratch::bytes({4 * size(sizes)}); }

  BiasGradients(const Biases& biases, const Sizes& sizes) : biases_(biases), sizes_(sizes) {
    totals_ = scratch.take<float>(size(sizes));
    std::memset(totals_, 0, size(sizes) * sizeof(float));
  }

  // Of keys [key, key + 32) that exist.
  void add(int64_t query, int64_t key, const Floats (&bars)[2]) {
    if (biases_.straight) {
      for (int half = 0; half < 2; ++half) {
        float* at = totals_ + biases_.diagonal(query, key) + half * kLanes;
        store(at, load(at) + bars[half]);
      }
    } else if (const int far = biases_.side(query, key)) {
      far_[far > 0] += bars[0] + bars[1];
    } else {
      for (int i = 0; i < kPanel; ++i) totals_[biases_.bin(query, key + i)] += bars[i / kLanes][i % kLanes];
    }
  }

  void write(float* table_bar) const {
    if (biases_.straight) {
      std::memset(table_bar, 0, sizes_.distances * sizeof(float));
      for (int64_t i = 0; i < sizes_.queries + sizes_.keys - 1; ++i) table_bar[biases_.bin_of_diagonal(i)] += totals_[i];
      return;
    }
    std::memcpy(table_bar, totals_, sizes_.distances * sizeof(float));
    table_bar[0] += sum(far_[0]);
    table_bar[sizes_.distances - 1] += sum(far_[1]);
  }

 private:
  static int64_t size(const Sizes& sizes) {
    return std::max(sizes.queries + sizes.padded_keys(), sizes.distances);
  }

  const Biases& biases_;
  Sizes sizes_;
  float* totals_;  // on the diagonal, or by bin
  Floats far_[2] = {};
};

// dot(values, values_bar) of each query: what a softmax's gradient subtracts.
template <typename From>
void row_products(Head<From> values, Head<From> bars, int width, float* products) {
  for (int64_t query = 0; query < values.rows; ++query) {
    float total = 0;
    for (int i = 0; i < width; ++i) {
      total += widened(values.first[query * values.stride + i]) * widened(bars.first[query * bars.stride + i]);
    }
    products[query] = total;
  }
}

template <typename T, typename From>
void backward_head(const Inputs& in, const BackwardInputs& given, const BackwardOutputs& out, int64_t row,
                   int64_t head) {
  const Sizes& sizes = in.sizes;
  const int64_t padded = sizes.padded_keys(), padded_queries = sizes.padded_queries(), item = row * sizes.heads + head;
  const int width = sizes.width;
  constexpr int64_t kSize = sizeof(T);
  scratch.reserve(Biases::scratch_bytes(sizes) + BiasGradients::scratch_bytes(sizes) +
                  Scratch::bytes({5 * kSize * padded * width, 6 * kSize * padded_queries * width,
                                  3 * kSize * kQueries * kKeys, 2 * 4 * kQueries * kKeys, 3 * 4 * kKeys * width,
                                  4 * padded_queries * width, 4 * padded_queries, 4 * padded}));
  const Biases biases(in, row, head);
  BiasGradients bias_bars(biases, sizes);
  const int64_t key_size = padded * width, query_size = padded_queries * width;
  T* key_side = scratch.take<T>(5 * key_size);
  T* query_side = scratch.take<T>(6 * query_size);
  T* weights = scratch.take<T>(3 * kQueries * kKeys);
  T* score_bars_left = weights + kQueries * kKeys;
  T* score_bars_right = score_bars_left + kQueries * kKeys;
  float* scores = scratch.take<float>(2 * kQueries * kKeys);
  float* weight_bars = scores + kQueries * kKeys;
  float* keys_bar = scratch.take<float>(3 * kKeys * width);
  float* values_bar = keys_bar + kKeys * width;
  float* untransposed = values_bar + kKeys * width;
  float* queries_bar = scratch.take<float>(query_size);
  float* products = scratch.take<float>(padded_queries);
  float* key_bias_bar = scratch.take<float>(padded);

  const auto bar_head = in.head<From>(given.values_bar, sizes.queries, row, head);
  T *packed_keys = key_side, *packed_values = key_side + key_size;
  T *keys_transposed = key_side + 2 * key_size, *values_transposed = key_side + 3 * key_size;
  pack(in.head<From>(in.key, sizes.keys, row, head), 0, padded, width, packed_keys);
  pack(in.head<From>(in.value, sizes.keys, row, head), 0, padded, width, packed_values);
  transpose(packed_keys, padded, width, keys_transposed);
  transpose(packed_values, padded, width, values_transposed);
  const T* keys = as_right(packed_keys, key_size / kPanel, key_side + 4 * key_size);
  T *queries = query_side, *bars = query_side + query_size;
  pack(in.head<From>(in.query, sizes.queries, row, head), 0, padded_queries, width, queries);
  pack(bar_head, 0, padded_queries, width, bars);
  transpose(queries, padded_queries, width, query_side + 2 * query_size);
  transpose(bars, padded_queries, width, query_side + 3 * query_size);
  const T* queries_transposed =
      as_left(query_side + 2 * query_size, query_size / kPanel, query_side + 4 * query_size);
  const T* bars_transposed = as_left(query_side + 3 * query_size, query_size / kPanel, query_side + 5 * query_size);
  row_products(in.head<From>(given.values, sizes.queries, row, head), bar_head, width, products);
  std::memset(queries_bar, 0, padded_queries * width * sizeof(float));
  std::memset(key_bias_bar, 0, padded * sizeof(float));

  for (int64_t first = 0; first < padded; first += kKeys) {
    const int block = static_cast<int>(std::min<int64_t>(kKeys, padded - first));
    std::memset(keys_bar, 0, 2 * kKeys * width * sizeof(float));
    for (int64_t begin = 0; begin < padded_queries; begin += kQueries) {
      const int rows = static_cast<int>(std::min<int64_t>(kQueries, sizes.queries - begin));
      for (int key = 0; key < block; key += kPanel) {
        const int64_t at = (first + key) * width;
        multiply<false>(queries + begin * kPanel, padded_queries, keys_transposed + at, width, scores + key * kQueries,
                        kQueries);
        multiply<false>(bars + begin * kPanel, padded_queries, values_transposed + at, width,
                        weight_bars + key * kQueries, kQueries);
      }
      for (int query = 0; query < kQueries; query += 2) {
        for (int key = 0; key < block; key += kPanel) {
          Floats weight[2][2] = {}, score_bar[2][2] = {};
          for (int r = 0; r < 2 && query + r < rows; ++r) {
            const int64_t mine = begin + query + r;
            const float* softmax = given.softmax + (item * sizes.queries + mine) * 2;
            const float excess_bar = in.counted[row * sizes.queries + mine] ? given.excess_bar[item] : 0.0f;
            Floats bias[2];
            biases.of(mine, first + key, bias);
            for (int half = 0; half < 2; ++half) {
              const int64_t at = key * kQueries + (query + r) * kPanel + half * kLanes, k = first + key + half * kLanes;
              const Floats score = load(scores + at) + bias[half];
              const Floats power = exponential(score + load(biases.key_bias + k) - softmax[0]);
              weight[r][half] = power * softmax[1];
              const Floats gated = weight[r][half] * (load(weight_bars + at) - products[mine]);
              store(key_bias_bar + k, load(key_bias_bar + k) + gated);
              const Floats penalty = load(biases.seen + k) * excess_bar;
              score_bar[r][half] = gated + (score > kScoreCeiling ? penalty : all(0));
            }
            bias_bars.add(mine, first + key, score_bar[r]);
          }
          const int at = key * kQueries;
          put_rows(static_cast<T*>(nullptr), weights + at, query, weight);
          put_rows(score_bars_left + at, score_bars_right + at, query, score_bar);
        }
      }
      for (int column = 0; column < width; column += kPanel) {
        multiply<true>(score_bars_left, kQueries, keys + column * padded + first * kPanel, block,
                       queries_bar + column * padded_queries + begin * kPanel, kQueries);
      }
      for (int key = 0; key < block; key += kPanel) {
        const int64_t left = begin * width, right = key * kQueries;
        multiply<true>(queries_transposed + left, width, score_bars_right + right, kQueries, keys_bar + key * width, width);
        multiply<true>(bars_transposed + left, width, weights + right, kQueries, values_bar + key * width, width);
      }
    }
    const int64_t rows = std::min<int64_t>(kKeys, sizes.keys - first);
    transpose(keys_bar, width, kKeys, untransposed);
    unpack(untransposed, kKeys, first, rows, width, in.head<From>(out.key_bar, sizes.keys, row, head));
    transpose(values_bar, width, kKeys, untransposed);
    unpack(untransposed, kKeys, first, rows, width, in.head<From>(out.value_bar, sizes.keys, row, head));
  }
  unpack(queries_bar, padded_queries, 0, sizes.queries, width,
         in.head<From>(out.query_bar, sizes.queries, row, head));
  std::memcpy(out.key_bias_bar + item * sizes.keys, key_bias_bar, sizes.keys * sizeof(float));
  bias_bars.write(out.table_bar + item * sizes.distances);
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
