// Products of bfloat16 matrices on the processor's tiles, as an XLA custom call. Shapes and meaning: product.py.
//
// A thread takes some rows and 512 columns of the result at a time. The right factor's part stays in the cache while 64
// rows after the other pass by; where the summed index is long, so do the results, and the right factor comes in parts.

#include "threads.h"

#ifdef HAS_TILES

namespace {

constexpr int64_t kColumns = 512;
constexpr int64_t kDepth = 512;       // of the summed index, at a time
constexpr int64_t kWholeDepth = 1024;  // up to here, all of it
constexpr int64_t kRows = 64;
constexpr int64_t kMostRows = 512;  // whose results stay in the cache

// A matrix in memory, by rows, and whether its transpose is meant.
struct Factor {
  ffi::AnyBuffer buffer;
  bool transposed;

  int64_t rows() const { return buffer.dimensions()[transposed ? 1 : 0]; }
  int64_t columns() const { return buffer.dimensions()[transposed ? 0 : 1]; }
};

// Calls run(what lies in memory from a column on).
template <typename Run>
void by_type(const ffi::AnyBuffer& buffer, int64_t column, Run run) {
  const auto shape = buffer.dimensions();
  if (buffer.element_type() == ffi::F32) {
    run(Rows<float>{static_cast<float*>(buffer.untyped_data()) + column, shape[0], shape[1]});
  } else {
    run(Rows<Bfloat16>{static_cast<Bfloat16*>(buffer.untyped_data()) + column, shape[0], shape[1]});
  }
}

// Rows [row, row + rows) and columns [column, column + columns) of a factor as a left one.
void pack_left_part(const Factor& factor, int64_t row, int64_t rows, int64_t column, int64_t columns, Bfloat16* panels) {
  if (factor.transposed) {
    by_type(factor.buffer, row, [&](auto stored) { pack_left_transposed(stored, column, columns, rows, panels); });
  } else {
    by_type(factor.buffer, column, [&](auto stored) { pack_left(stored, row, rows, columns, panels); });
  }
}

// The same as a right one.
void pack_right_part(const Factor& factor, int64_t row, int64_t rows, int64_t column, int64_t columns,
                     Bfloat16* panels) {
  if (factor.transposed) {
    by_type(factor.buffer, row, [&](auto stored) { pack_right_transposed(stored, column, columns, rows, panels); });
  } else {
    by_type(factor.buffer, column, [&](auto stored) { pack_right(stored, row, rows, columns, panels); });
  }
}

void block_of_product(const Factor& left, const Factor& right, ffi::AnyBuffer& result, int64_t row, int64_t end,
                      int64_t column) {
  const int64_t columns = std::min(kColumns, right.columns() - column), inner = left.columns();
  const int64_t most = inner <= kWholeDepth ? round_up(inner, kPanel) : kDepth;
  // Rows of results that are kept until they are written.
  const int64_t height = inner <= most ? kRows : round_up(end - row, kRows);
  scratch.reserve(Scratch::bytes({4 * height * columns, 2 * most * columns, 2 * kRows * most}));
  float* results = scratch.take<float>(height * columns);  // [columns/32][height][32]
  Bfloat16* right_part = scratch.take<Bfloat16>(most * columns);
  Bfloat16* left_part = scratch.take<Bfloat16>(kRows * most);
  for (int64_t first = 0; first < inner; first += most) {
    const int64_t depth = round_up(std::min(most, inner - first), kPanel);
    pack_right_part(right, first, depth, column, columns, right_part);
    for (int64_t begin = row; begin < end; begin += kRows) {
      pack_left_part(left, begin, kRows, first, depth, left_part);
      float* rows = results + (begin - row) % height * kPanel;
      for (int64_t panel = 0; panel < columns / kPanel; ++panel) {
        const Bfloat16* from = right_part + panel * depth * kPanel;
        float* to = rows + panel * height * kPanel;
        first == 0 ? multiply<false>(left_part, kRows, from, static_cast<int>(depth), to, kRows)
                   : multiply<true>(left_part, kRows, from, static_cast<int>(depth), to, kRows);
      }
      if (first + most < inner) continue;
      by_type(result, column, [&](auto stored) {
        unpack(rows, height, begin, std::min(kRows, end - begin), columns, stored);
      });
    }
  }
}

}  // namespace

#endif

namespace {

ffi::Error product(ffi::ThreadPool pool, ffi::AnyBuffer left_buffer, ffi::AnyBuffer right_buffer,
                   ffi::Result<ffi::AnyBuffer> result, bool left_transposed, bool right_transposed) {
#ifdef HAS_TILES
  const Factor left = {left_buffer, left_transposed}, right = {right_buffer, right_transposed};
  const int64_t rows = left.rows(), across = round_up(right.columns(), kColumns) / kColumns;
  const bool whole = left.columns() <= kWholeDepth;
  // A few shares for every thread, or one where all of a share's results stay in the cache.
  const int64_t shares = round_up(pool.num_threads() * (whole ? 2 : 1), across) / across;
  const int64_t share = round_up(round_up(rows, shares) / shares, kRows);
  const int64_t height = whole ? share : std::min(share, kMostRows);
  const int64_t down = round_up(rows, height) / height;
  in_parallel(pool, down * across, [&](int64_t block) {
    Ready<Bfloat16> ready;
    const int64_t row = block / across * height;
    block_of_product(left, right, *result, row, std::min(row + height, rows), block % across * kColumns);
  });
  return ffi::Error::Success();
#else
  return ffi::Error(ffi::ErrorCode::kUnimplemented, "this processor has no tiles");
#endif
}

}  // namespace

// Whether products can be computed here.
extern "C" bool mrt5_has_tiles() {
#ifdef HAS_TILES
  return Tiles::allowed();
#else
  return false;
#endif
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(mrt5_product, product,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<bool>("left_transposed")
                                  .Attr<bool>("right_transposed"));
