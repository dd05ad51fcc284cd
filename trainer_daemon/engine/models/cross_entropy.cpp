// Softcapped cross-entropy of a chunk of logits, and its gradient written over them, in one visit.
//
// Plain C++ that a compiler turns into vector instructions; no intrinsics, so any CPU is served. `plain_chunk_loss_` in
// loss.py computes the same. With q = 1/(1 + exp(2x/cap)), cap·tanh(x/cap) − cap = −2·cap·q: never above 0, so the softmax
// needs no maximum; and the cap's slope is 4q(1 − q). A row stays in the L2 cache between its two passes. One thread
// sums a row, so the result does not depend on how many there are.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

struct bfloat16 {
  uint16_t bits;
};

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline float load(float x) { return x; }
inline float load(bfloat16 x) { return float_of(uint32_t(x.bits) << 16); }

inline void store(float& to, float x) { to = x; }
inline void store(bfloat16& to, float x) {  // to nearest, ties to even
  const uint32_t bits = bits_of(x);
  to.bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// e^x to 2 ulp for |x| <= 80, NaN for NaN. The C library's is a call, and a loop with a call does not vectorise.
inline float exponential(float x) {
  const float shifted = x * 1.44269504f + 12582912.f;  // 1.5·2^23: what is left in the low bits is round(x/ln 2)
  const float n = shifted - 12582912.f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // |r| <= ln(2)/2; the polynomial is Cephes'
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return (p * r * r + r + 1.f) * float_of((bits_of(shifted) + 127) << 23);
}

// exp(2x/cap), bounded where the cap is flat; the comparisons let NaN through.
inline float doubled(float x, float cap) {
  const float y = x * (2.f / cap);
  return exponential(y > 40.f ? 40.f : y < -40.f ? -40.f : y);
}

template <class T>
float row_loss(T* row, int64_t V, int64_t target, float cap, float* unscaled) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < V; ++j) {
    const float a = doubled(load(row[j]), cap), q = 1.f / (1.f + a);
    const float e = exponential(-2.f * cap * q);
    sum += e;
    unscaled[j] = e * (4.f * a * q * q);  // a·q = 1 − q, without cancellation
  }
  const float a = doubled(load(row[target]), cap), q = 1.f / (1.f + a);
  const float scale = 1.f / sum;
#pragma omp simd
  for (int64_t j = 0; j < V; ++j) store(row[j], unscaled[j] * scale);
  store(row[target], unscaled[target] * scale - 4.f * a * q * q);
  return std::log(sum) + 2.f * cap * q;
}

// (N, V) logits, which become ∂loss/∂logits, (N) targets, below 0 for none -> (N) losses in nats
template <class T>
void chunk_loss(T* logits, const int64_t* targets, float* losses, int64_t N, int64_t V, float cap, int threads) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> unscaled(V);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < N; ++i) {
      T* row = logits + i * V;
      if (targets[i] >= 0) {
        losses[i] = row_loss(row, V, targets[i], cap, unscaled.data());
      } else {
        losses[i] = 0;
        std::memset(static_cast<void*>(row), 0, V * sizeof(T));
      }
    }
  }
}

}  // namespace

extern "C" void chunk_loss_float32(void* logits, const int64_t* targets, float* losses, int64_t N, int64_t V, float cap,
                                   int threads) {
  chunk_loss(static_cast<float*>(logits), targets, losses, N, V, cap, threads);
}

extern "C" void chunk_loss_bfloat16(void* logits, const int64_t* targets, float* losses, int64_t N, int64_t V, float cap,
                                    int threads) {
  chunk_loss(static_cast<bfloat16*>(logits), targets, losses, N, V, cap, threads);
}
