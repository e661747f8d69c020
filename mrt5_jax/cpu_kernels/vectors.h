// Vectors of sixteen numbers, and rows of thirty-two. Loops over `Floats` compile to the widest vectors there are.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
#define HAS_TILES 1
#endif
#ifdef __AVX512F__
#include <immintrin.h>
#endif

constexpr int kPanel = 32;
constexpr int kLanes = 16;

using Floats = float __attribute__((vector_size(kLanes * 4)));
using Ints = int32_t __attribute__((vector_size(kLanes * 4)));

struct Bfloat16 {
  uint16_t bits;
};

template <typename Vector = Floats>
inline Vector load(const void* from) {
  Vector values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

template <typename Vector>
inline void store(void* to, Vector values) {
  std::memcpy(to, &values, sizeof values);
}

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

// Thirty-two numbers from one type to another. Rounds to the nearest, ties to even.
inline void copy_row(const float* from, float* to) { std::memcpy(to, from, kPanel * sizeof *to); }
inline void copy_row(const Bfloat16* from, Bfloat16* to) { std::memcpy(to, from, kPanel * sizeof *to); }

inline void copy_row(const Bfloat16* from, float* to) {
  for (int i = 0; i < kPanel; ++i) to[i] = widened(from[i]);
}

inline void copy_row(const float* from, Bfloat16* to) {
#ifdef HAS_TILES
  store(to, _mm512_cvtne2ps_pbh(load<__m512>(from + kLanes), load<__m512>(from)));
#else
  for (int i = 0; i < kPanel; ++i) {
    uint32_t bits;
    std::memcpy(&bits, from + i, sizeof bits);
    to[i].bits = from[i] == from[i] ? (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 : 0x7fc0;
  }
#endif
}

// Words [16 16], in place, to their transpose.
inline void transpose(Ints (&rows)[kLanes]) {
#ifdef __AVX512F__
  const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  // Blocks of `step` words off the diagonal change places, for 8, 4, 2 and 1.
  for (int step = kLanes / 2; step > 0; step /= 2) {
    const Ints second = (lane & step) != 0;
    const Ints upper = second ? lane - step + kLanes : lane, lower = second ? lane + kLanes : lane + step;
    for (int row = 0; row < kLanes; ++row) {
      if (row & step) continue;
      const __m512i one = (__m512i)rows[row], other = (__m512i)rows[row + step];
      rows[row] = (Ints)_mm512_permutex2var_epi32(one, (__m512i)upper, other);
      rows[row + step] = (Ints)_mm512_permutex2var_epi32(one, (__m512i)lower, other);
    }
  }
#else
  for (int row = 0; row < kLanes; ++row) {
    for (int column = 0; column < row; ++column) {
      const int32_t word = rows[row][column];
      rows[row][column] = rows[column][row];
      rows[column][row] = word;
    }
  }
#endif
}
