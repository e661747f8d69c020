// Matrices in panels, the factors of products.
//
// A left factor [rows cols] lies in cols / 32 panels of [rows 32], so that a product reads it in order. So does a right
// factor of floats; one of bfloat16 lies in pairs of rows, [rows/2 32 2], as the processor's tile products (AMX) want it.
// Results are panels of floats.

#pragma once

#include "vectors.h"

// Rows of a matrix in memory, `stride` elements apart: of an array [batch length heads width] a row's head, say.
template <typename T>
struct Rows {
  T* first;
  int64_t count, stride;

  T* at(int64_t row, int64_t column) const { return first + row * stride + column; }
};

// Thirty-two elements of a row; zeros if the matrix lacks it.
template <typename T, typename From>
void copy_part(Rows<From> matrix, int64_t row, int64_t column, T* to) {
  if (row < matrix.count) {
    copy_row(matrix.at(row, column), to);
  } else {
    std::memset(to, 0, kPanel * sizeof *to);
  }
}

// Rows [begin, begin + count) as a left factor, panels [width/32][count][32]; row by row, as memory likes to be read.
template <typename T, typename From>
void pack_left(Rows<From> matrix, int64_t begin, int64_t count, int64_t width, T* panels) {
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t column = 0; column < width; column += kPanel) {
      copy_part(matrix, begin + row, column, panels + column * count + row * kPanel);
    }
  }
}

// The same as a right factor.
template <typename From>
void pack_right(Rows<From> matrix, int64_t begin, int64_t count, int64_t width, float* panels) {
  pack_left(matrix, begin, count, width, panels);
}

// Their transpose as a right factor [width count]: words [count/32][width in words][32].
template <typename T, typename From>
void pack_right_transposed(Rows<From> matrix, int64_t begin, int64_t count, int64_t width, T* panels) {
  constexpr int kWords = kPanel * sizeof(T) / 4;  // of 32 elements
  int32_t* to = reinterpret_cast<int32_t*>(panels);
  for (int64_t row = 0; row < count; row += kPanel) {
    for (int64_t column = 0; column < width; column += kPanel, to += kWords * kPanel) {
      alignas(64) T block[kPanel * kPanel];
      for (int i = 0; i < kPanel; ++i) copy_part(matrix, begin + row + i, column, block + i * kPanel);
      const int32_t* words = reinterpret_cast<const int32_t*>(block);
      for (int down = 0; down < kPanel; down += kLanes) {
        for (int across = 0; across < kWords; across += kLanes) {
          Ints square[kLanes];
          for (int i = 0; i < kLanes; ++i) square[i] = load<Ints>(words + (down + i) * kWords + across);
          transpose(square);
          for (int i = 0; i < kLanes; ++i) store(to + (across + i) * kPanel + down, square[i]);
        }
      }
    }
  }
}

// Their transpose as a left factor [width count]: panels [count/32][width][32].
template <typename From>
void pack_left_transposed(Rows<From> matrix, int64_t begin, int64_t count, int64_t width, float* panels) {
  pack_right_transposed(matrix, begin, count, width, panels);
}

// Panels [width/32][padded][32] of floats to rows [begin, begin + count) of a matrix.
template <typename To>
void unpack(const float* panels, int64_t padded, int64_t begin, int64_t count, int64_t width, Rows<To> matrix) {
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t column = 0; column < width; column += kPanel) {
      copy_row(panels + column * padded + row * kPanel, matrix.at(begin + row, column));
    }
  }
}

// Writes rows `row` and `row + 1` of a panel as part of a left factor.
inline void put_left(float* panel, int row, const Floats (&values)[2][2]) {
  for (int r = 0; r < 2; ++r) {
    for (int half = 0; half < 2; ++half) store(panel + (row + r) * kPanel + half * kLanes, values[r][half]);
  }
}

// The same of a right one.
inline void put_right(float* panel, int row, const Floats (&values)[2][2]) { put_left(panel, row, values); }

#ifdef HAS_TILES

// Two rows of bfloat16 as pairs of one number of each.
inline void pair(__m512i even, __m512i odd, Ints (&pairs)[2]) {
  alignas(64) static constexpr uint16_t kOrder[2][kPanel] = {
      {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
      {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
       24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};
  for (int half = 0; half < 2; ++half) {
    pairs[half] = (Ints)_mm512_permutex2var_epi16(even, load<__m512i>(kOrder[half]), odd);
  }
}

template <typename From>
void pack_right(Rows<From> matrix, int64_t begin, int64_t count, int64_t width, Bfloat16* panels) {
  for (int64_t row = 0; row < count; row += 2) {
    for (int64_t column = 0; column < width; column += kPanel) {
      alignas(64) Bfloat16 even[kPanel], odd[kPanel];
      copy_part(matrix, begin + row, column, even);
      copy_part(matrix, begin + row + 1, column, odd);
      Ints pairs[2];
      pair(load<__m512i>(even), load<__m512i>(odd), pairs);
      for (int half = 0; half < 2; ++half) store(panels + column * count + (row + half) * kPanel, pairs[half]);
    }
  }
}

template <typename From>
void pack_left_transposed(Rows<From> matrix, int64_t begin, int64_t count, int64_t width, Bfloat16* panels) {
  for (int64_t row = 0; row < count; row += kPanel) {
    for (int64_t column = 0; column < width; column += kPanel) {
      alignas(64) Bfloat16 block[kPanel * kPanel];
      for (int i = 0; i < kPanel; ++i) copy_part(matrix, begin + row + i, column, block + i * kPanel);
      Ints pairs[kLanes][2], halves[2][kLanes];
      for (int i = 0; i < kLanes; ++i) {
        pair(load<__m512i>(block + 2 * i * kPanel), load<__m512i>(block + (2 * i + 1) * kPanel), pairs[i]);
        for (int half = 0; half < 2; ++half) halves[half][i] = pairs[i][half];
      }
      for (auto& square : halves) {
        transpose(square);
        for (int i = 0; i < kLanes; ++i, panels += kPanel) store(panels, square[i]);
      }
    }
  }
}

inline void put_left(Bfloat16* panel, int row, const Floats (&values)[2][2]) {
  for (int r = 0; r < 2; ++r) {
    store(panel + (row + r) * kPanel, _mm512_cvtne2ps_pbh((__m512)values[r][1], (__m512)values[r][0]));
  }
}

inline void put_right(Bfloat16* panel, int row, const Floats (&values)[2][2]) {
  Ints pairs[2];
  pair((__m512i)_mm512_cvtne2ps_pbh((__m512)values[0][1], (__m512)values[0][0]),
       (__m512i)_mm512_cvtne2ps_pbh((__m512)values[1][1], (__m512)values[1][0]), pairs);
  for (int half = 0; half < 2; ++half) store(panel + row * kPanel + half * kPanel, pairs[half]);
}

#endif
