// What attention adds to its scores: a bias by distance, from a table, and one of each key; and gradients of the table.

#pragma once

#include <cmath>

#include "threads.h"

namespace {

constexpr int kQueries = 64;      // a block of queries
constexpr int kKeys = 256;        // keys taken together backward
constexpr int kStretch = 128;     // queries taken together backward
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

  // One head of one row in an array [batch length heads width].
  template <typename From>
  Rows<From> head(const void* array, int64_t length, int64_t row, int64_t number) const {
    const int64_t stride = sizes.heads * sizes.width;
    return {static_cast<From*>(const_cast<void*>(array)) + row * length * stride + number * sizes.width, length, stride};
  }
};

// The biases of one row and head. Positions that follow each other are straight: the distances of a query's keys lie side
// by side, on the diagonal of all distances.
class Biases {
 public:
  static int64_t scratch_bytes(const Sizes& sizes) {
    return Scratch::bytes({4 * 5 * sizes.padded_keys(), 4 * diagonal_size(sizes)});
  }

  static int64_t diagonal_size(const Sizes& sizes) { return sizes.padded_queries() + sizes.padded_keys(); }

  Biases(const Inputs& in, int64_t row, int64_t head) : causal(in.causal), sizes_(in.sizes) {
    const int64_t padded = sizes_.padded_keys(), shared = sizes_.position_rows == 1 ? 0 : row;
    far_ = static_cast<int>(sizes_.distances / 2);
    query_positions_ = in.query_positions + shared * sizes_.queries;
    table = in.table + head * sizes_.distances;
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
    straight = follow(query_positions_, sizes_.queries) && follow(key_positions_, sizes_.keys);
    diagonal = scratch.take<float>(diagonal_size(sizes_));
    for (int64_t place = 0; straight && place < diagonal_size(sizes_); ++place) {
      const bool hidden = causal && place >= sizes_.padded_queries();
      diagonal[place] = hidden ? -INFINITY : table[bin_of_place(place)];
    }
  }

  // The bin of queries [query, query + 64) and keys [key, key + 32) if all are so far apart that they share one; else -1.
  int common_bin(int64_t query, int64_t key) const {
    if (causal && key + kPanel - 1 > query) return -1;
    const int32_t* first = query_positions_ + query;
    const int64_t count = std::min<int64_t>(kQueries, sizes_.queries - query);
    if (nearest_[key / kPanel] - *std::max_element(first, first + count) >= far_) return 2 * far_;
    if (farthest_[key / kPanel] - *std::min_element(first, first + count) <= -far_) return 0;
    return -1;
  }

  // Bins of keys [key, key + 32). Queries of the padding have the last one's.
  void bins(int64_t query, int64_t key, Ints (&bins)[2]) const {
    const Ints farthest = Ints{} + far_;
    for (int half = 0; half < 2; ++half) {
      const Ints distance =
          load<Ints>(key_positions_ + key + half * kLanes) - query_positions_[std::min(query, sizes_.queries - 1)];
      const Ints capped = distance > farthest ? farthest : distance;
      bins[half] = (capped < -farthest ? -farthest : capped) + farthest;
    }
  }

  // Where the distance of a query and a key lies on the diagonal.
  int64_t place(int64_t query, int64_t key) const { return sizes_.padded_queries() - 1 - query + key; }

  int bin_of_place(int64_t place) const {
    const int64_t distance = key_positions_[0] - query_positions_[0] + place - (sizes_.padded_queries() - 1);
    return static_cast<int>(std::clamp<int64_t>(distance, -far_, far_)) + far_;
  }

  bool causal, straight;
  float *key_bias, *seen;  // of each key; seen is 1 or 0
  float* diagonal;
  const float* table;

 private:
  static bool follow(const int32_t* positions, int64_t count) {
    for (int64_t i = 1; i < count; ++i) {
      if (positions[i] != positions[0] + i) return false;
    }
    return true;
  }

  Sizes sizes_;
  int far_;
  const int32_t* query_positions_;
  int32_t *key_positions_, *nearest_, *farthest_;  // of each key; of each panel of keys
};

// Gradients of the table, added up by bin, and on the diagonal where positions are straight.
class TableGradients {
 public:
  static int64_t scratch_bytes(const Sizes& sizes) {
    return Scratch::bytes({4 * (sizes.distances + kPanel), 4 * Biases::diagonal_size(sizes)});
  }

  explicit TableGradients(const Sizes& sizes) : sizes_(sizes) {
    bins = scratch.take<float>(sizes.distances + kPanel);
    std::fill_n(bins, sizes.distances + kPanel, 0.0f);
    diagonal = scratch.take<float>(Biases::diagonal_size(sizes));
    std::fill_n(diagonal, Biases::diagonal_size(sizes), 0.0f);
  }

  void write(const Biases& biases, float* table_bar) const {
    std::memcpy(table_bar, bins, sizes_.distances * sizeof(float));
    for (int64_t place = 0; biases.straight && place < Biases::diagonal_size(sizes_); ++place) {
      table_bar[biases.bin_of_place(place)] += diagonal[place];
    }
  }

  float* bins;  // and 32 places more, whose sums nobody reads
  float* diagonal;

 private:
  Sizes sizes_;
};

// The biases of 64 queries and 32 keys, one way of three; `query` counts from the first of the 64.

// All are far apart.
struct OneBias {
  Floats bias;
  float* total;
  Floats bars = {};

  void of(int64_t /*query*/, Floats (&biases)[2]) const { biases[0] = biases[1] = bias; }
  void add(int64_t /*query*/, const Floats (&in)[2]) { bars += in[0] + in[1]; }
  void finish() const { *total += sum(bars); }
};

// Positions are straight.
struct DiagonalBiases {
  const float* first;  // of query 0
  float* first_total;

  void of(int64_t query, Floats (&biases)[2]) const {
    for (int half = 0; half < 2; ++half) biases[half] = load(first - query + half * kLanes);
  }
  void add(int64_t query, const Floats (&in)[2]) const {
    for (int half = 0; half < 2; ++half) {
      float* at = first_total - query + half * kLanes;
      store(at, load(at) + in[half]);
    }
  }
  void finish() const {}
};

// Any positions.
struct LookedUpBiases {
  const Biases& all;
  int64_t first_query, key;
  float* totals;
  int distances;
  Floats before = {}, after = {};

  void of(int64_t query, Floats (&biases)[2]) const {
    Ints bins[2];
    all.bins(first_query + query, key, bins);
    for (int half = 0; half < 2; ++half) {
#ifdef __AVX512F__
      biases[half] = (Floats)_mm512_i32gather_ps((__m512i)bins[half], all.table, 4);
#else
      for (int lane = 0; lane < kLanes; ++lane) biases[half][lane] = all.table[bins[half][lane]];
#endif
    }
    if (!all.causal) return;
    for (int64_t i = std::max<int64_t>(first_query + query + 1 - key, 0); i < kPanel; ++i) {
      biases[i / kLanes][i % kLanes] = -INFINITY;
    }
  }

  // The two bins of all that is far are added up apart: one sum after the other in one place would wait for each other.
  void add(int64_t query, const Floats (&in)[2]) {
    const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    Ints bins[2];
    all.bins(first_query + query, key, bins);
    alignas(64) int32_t places[kPanel];
    alignas(64) float bars[kPanel];
    for (int half = 0; half < 2; ++half) {
      const Ints is_before = bins[half] == 0, is_after = bins[half] == distances - 1;
      before += is_before ? in[half] : Floats{};
      after += is_after ? in[half] : Floats{};
      store(places + half * kLanes, (is_before | is_after) != 0 ? lane + distances + half * kLanes : bins[half]);
      store(bars + half * kLanes, in[half]);
    }
    for (int i = 0; i < kPanel; ++i) totals[places[i]] += bars[i];
  }

  void finish() const {
    totals[0] += sum(before);
    totals[distances - 1] += sum(after);
  }
};

// Calls run(the biases of queries [query, query + 64) and keys [key, key + 32)); forward, without gradients.
template <typename Run>
void with_biases(const Biases& biases, const Sizes& sizes, int64_t query, int64_t key, TableGradients* gradients, Run run) {
  const bool wanted = gradients != nullptr;
  if (const int bin = biases.common_bin(query, key); bin >= 0) {
    run(OneBias{all(biases.table[bin]), wanted ? gradients->bins + bin : nullptr});
  } else if (biases.straight) {
    const int64_t place = biases.place(query, key);
    run(DiagonalBiases{biases.diagonal + place, wanted ? gradients->diagonal + place : nullptr});
  } else {
    run(LookedUpBiases{biases, query, key, wanted ? gradients->bins : nullptr, static_cast<int>(sizes.distances)});
  }
}

}  // namespace
