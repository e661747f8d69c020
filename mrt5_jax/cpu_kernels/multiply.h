// Products of panels: with tiles (AMX) for bfloat16 where the processor has them, else with vectors of floats.

#pragma once

#include "panels.h"

#ifdef HAS_TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

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
