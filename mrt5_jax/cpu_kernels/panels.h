// Matrices in panels, and their products.
//
// A matrix [rows cols] lies in cols / 32 panels of [rows 32], so that a product reads both its factors in order. A right
// factor of bfloat16 lies in pairs of rows, [rows/2 32 2], as the processor's tile products (AMX) want it. Results are
// float panels. Loops over `Floats` compile to the widest vectors that the processor has.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
#define HAS_TILES 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

constexpr int kPanel = 32;
constexpr int kLanes = 16;

using Floats = float __attribute__((vector_size(kLanes * 4)));
using Ints = int32_t __attribute__((vector_size(kLanes * 4)));

struct Bfloat16 {
  uint16_t bits;
};

inline Floats load(const float* from) {
  Floats values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

inline void store(float* to, Floats values) { std::memcpy(to, &values, sizeof values); }

inline Floats all(float value) { return Floats{} + value; }

inline Floats larger(Floats one, Floats other) { return one > other ? one : other; }

inline float sum(Floats values) {
  float total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += values[lane];
  return total;
}

inline float largest(Floats values) {
  float top = values[0];
  for (int lane = 1; lane < kLanes; ++lane) top = std::max(top, values[lane]);
  return top;
}

// e^x to 2 units in the last place (Cephes' polynomial); 0 below -87; a NaN stays one.
inline Floats exponential(Floats x) {
  const Floats magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Floats shifted = x * 1.44269504f + magic;
  const Floats n = shifted - magic;
  const Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Floats p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Floats power = p * r * r + r + 1.0f;
  const Ints exponent = ((Ints)shifted - (Ints)magic + 127) << 23;
  return x < -87.0f ? all(0.0f) : power * (Floats)exponent;
}

inline float widened(float value) { return value; }

inline float widened(Bfloat16 value) {
  const uint32_t bits = uint32_t{value.bits} << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

inline void narrow(float value, float* to) { *to = value; }

// Rounds to the nearest, ties to even.
inline void narrow(float value, Bfloat16* to) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to->bits = value == value ? rounded : 0x7fc0;
}

// One row or column of heads in an array [batch length heads width]: `rows` rows, `stride` elements apart.
template <typename T>
struct Head {
  const T* first;
  int64_t rows, stride;
};

// Rows [begin, begin + count) of a head as a left factor, panels [width/32][count][32]; rows that it lacks are zeros.
template <typename T, typename From>
void pack(Head<From> head, int64_t begin, int64_t count, int width, T* panels) {
  for (int panel = 0; panel < width / kPanel; ++panel) {
    for (int64_t row = begin; row < begin + count; ++row, panels += kPanel) {
      if (row < head.rows) {
        const From* from = head.first + row * head.stride + panel * kPanel;
        for (int i = 0; i < kPanel; ++i) narrow(widened(from[i]), panels + i);
      } else {
        std::memset(panels, 0, kPanel * sizeof(T));
      }
    }
  }
}

// [rows columns], `stride` words apart, to its transpose.
inline void transpose_block(const uint32_t* from, int64_t stride, int columns, uint32_t* to) {
  for (int column = 0; column < columns; ++column, to += kPanel) {
    for (int row = 0; row < kPanel; ++row) to[row] = from[row * stride + column];
  }
}

// Panels [width/32][rows][32] to their transpose as a right factor: words [rows/32][width in words][32].
template <typename T>
void transpose(const T* panels, int64_t rows, int width, T* transposed) {
  constexpr int kWords = kPanel * sizeof(T) / 4;
  const uint32_t* from = reinterpret_cast<const uint32_t*>(panels);
  uint32_t* to = reinterpret_cast<uint32_t*>(transposed);
  for (int64_t block = 0; block < rows / kPanel; ++block) {
    for (int panel = 0; panel < width / kPanel; ++panel, to += kWords * kPanel) {
      transpose_block(from + (panel * rows + block * kPanel) * kWords, kWords, kWords, to);
    }
  }
}

// A left factor as a right factor and back: the same for floats; for bfloat16, rows in pairs or one by one. `paired` and
// `single` are where to put it if it is not the same. `rows` counts all rows of all panels.
inline const float* as_right(const float* left, int64_t /*rows*/, float* /*paired*/) { return left; }
inline const float* as_left(const float* right, int64_t /*rows*/, float* /*single*/) { return right; }

// Panels [width/32][padded][32] of floats to rows [begin, begin + rows) of a head.
template <typename From>
void unpack(const float* panels, int64_t padded, int64_t begin, int64_t rows, int width, Head<From> head) {
  for (int panel = 0; panel < width / kPanel; ++panel) {
    for (int64_t row = 0; row < rows; ++row) {
      const float* from = panels + (panel * padded + row) * kPanel;
      From* to = const_cast<From*>(head.first) + (begin + row) * head.stride + panel * kPanel;
      for (int i = 0; i < kPanel; ++i) narrow(from[i], to + i);
    }
  }
}

// Writes rows `row` and `row + 1` of a panel, as part of a left factor and of a right factor, where these are given.
inline void put_rows(float* left, float* right, int row, const Floats (&values)[2][2]) {
  for (float* factor : {left, right}) {
    if (factor == nullptr) continue;
    for (int r = 0; r < 2; ++r) {
      for (int half = 0; half < 2; ++half) store(factor + (row + r) * kPanel + half * kLanes, values[r][half]);
    }
  }
}

// c [rows 32] (+)= a [rows inner] b [inner 32]. `a_rows` is the height of a's panels; rows go by 8.
template <bool kAdd>
void multiply(const float* a, int64_t a_rows, const float* b, int inner, float* c, int rows) {
  for (int row = 0; row < rows; row += 8) {
    Floats total[8][2];
    for (int r = 0; r < 8; ++r) {
      for (int half = 0; half < 2; ++half) {
        total[r][half] = kAdd ? load(c + (row + r) * kPanel + half * kLanes) : all(0);
      }
    }
    for (int panel = 0; panel < inner / kPanel; ++panel) {
      const float* left = a + (panel * a_rows + row) * kPanel;
      const float* right = b + panel * kPanel * kPanel;
      for (int i = 0; i < kPanel; ++i) {
        const Floats low = load(right + i * kPanel), high = load(right + i * kPanel + kLanes);
        for (int r = 0; r < 8; ++r) {
          const Floats factor = all(left[r * kPanel + i]);
          total[r][0] += factor * low;
          total[r][1] += factor * high;
        }
      }
    }
    for (int r = 0; r < 8; ++r) {
      for (int half = 0; half < 2; ++half) store(c + (row + r) * kPanel + half * kLanes, total[r][half]);
    }
  }
}

#ifdef HAS_TILES

// Configures the thread's eight tiles as [16 rows][64 bytes] while it lives.
class Tiles {
 public:
  Tiles() {
    alignas(64) uint8_t config[64] = {1};  // palette 1
    for (int tile = 0; tile < 8; ++tile) {
      config[16 + 2 * tile] = 64;
      config[48 + tile] = 16;
    }
    _tile_loadconfig(config);
  }
  ~Tiles() { _tile_release(); }

  // Linux lets a process use tiles once it has asked for their state to be saved.
  static bool allowed() {
    constexpr int kRequestPermission = 0x1023, kTileData = 18;
    static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    return granted;
  }
};

inline __m512i paired(__m256i even, __m256i odd) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

inline const Bfloat16* as_right(const Bfloat16* left, int64_t rows, Bfloat16* paired_rows) {
  for (int64_t i = 0; i < rows * kPanel; i += 2 * kPanel) {
    for (int half = 0; half < kPanel; half += kLanes) {
      __m256i even, odd;
      std::memcpy(&even, left + i + half, sizeof even);
      std::memcpy(&odd, left + i + kPanel + half, sizeof odd);
      const __m512i pairs = paired(even, odd);
      std::memcpy(paired_rows + i + 2 * half, &pairs, sizeof pairs);
    }
  }
  return paired_rows;
}

inline const Bfloat16* as_left(const Bfloat16* right, int64_t rows, Bfloat16* single_rows) {
  for (int64_t i = 0; i < rows * kPanel; i += 2 * kPanel) {
    for (int half = 0; half < kPanel; half += kLanes) {
      __m512i pairs;
      std::memcpy(&pairs, right + i + 2 * half, sizeof pairs);
      const __m256i even = _mm512_cvtepi32_epi16(pairs), odd = _mm512_cvtepi32_epi16(_mm512_srli_epi32(pairs, 16));
      std::memcpy(single_rows + i + half, &even, sizeof even);
      std::memcpy(single_rows + i + kPanel + half, &odd, sizeof odd);
    }
  }
  return single_rows;
}

inline void put_rows(Bfloat16* left, Bfloat16* right, int row, const Floats (&values)[2][2]) {
  for (int r = 0; r < 2; ++r) {
    if (left == nullptr) break;
    const __m512bh both = _mm512_cvtne2ps_pbh((__m512)values[r][1], (__m512)values[r][0]);
    std::memcpy(left + (row + r) * kPanel, &both, sizeof both);
  }
  for (int half = 0; half < 2; ++half) {
    if (right == nullptr) break;
    const __m256i even = (__m256i)_mm512_cvtneps_pbh((__m512)values[0][half]);
    const __m256i odd = (__m256i)_mm512_cvtneps_pbh((__m512)values[1][half]);
    const __m512i pairs = paired(even, odd);
    std::memcpy(right + (row * kPanel + half * kPanel), &pairs, sizeof pairs);
  }
}

// As above; rows go by 32.
template <bool kAdd>
void multiply(const Bfloat16* a, int64_t a_rows, const Bfloat16* b, int inner, float* c, int rows) {
  constexpr int kStride = kPanel * 4;  // bytes, of float rows and of paired rows
  for (int row = 0; row < rows; row += 2 * kLanes) {
    float *upper = c + row * kPanel, *lower = upper + kLanes * kPanel;
    if (kAdd) {
      _tile_loadd(0, upper, kStride);
      _tile_loadd(1, upper + kLanes, kStride);
      _tile_loadd(2, lower, kStride);
      _tile_loadd(3, lower + kLanes, kStride);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int panel = 0; panel < inner / kPanel; ++panel) {
      const Bfloat16* left = a + (panel * a_rows + row) * kPanel;
      const Bfloat16* right = b + panel * kPanel * kPanel;
      _tile_loadd(4, left, kPanel * 2);
      _tile_loadd(6, right, kStride);
      _tile_loadd(7, right + kPanel, kStride);
      _tile_loadd(5, left + kLanes * kPanel, kPanel * 2);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, upper, kStride);
    _tile_stored(1, upper + kLanes, kStride);
    _tile_stored(2, lower, kStride);
    _tile_stored(3, lower + kLanes, kStride);
  }
}

#endif
