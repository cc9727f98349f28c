// Engines that keep their own KV memory. A pot over it, by strides, goes through whole distillations bit for
// bit like one that owns its memory, and leaves everything else in that memory alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "allocation_counter.hpp"
#include "ccd_trial.hpp"
#include "infinipot/infinipot.hpp"
#include "toy_engine.hpp"

// With AddressSanitizer, even reading outside the rows is an error.
#if __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) (static_cast<void>(address), static_cast<void>(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) (static_cast<void>(address), static_cast<void>(size))
#endif

namespace {

using namespace trial;
using infinipot::f16;
using infinipot::Index;
using infinipot::KvLayout;
using infinipot::Pairing;
using infinipot::plain_rope;
using infinipot::Shape;
using infinipot::strided_rows;

constexpr std::size_t context = 45;   // positions in the engine's memory
constexpr std::size_t capacity = 40;  // those of them that the pot uses

// ---------------------------------------------------------------- memory

/// An engine's memory between two guards. It begins as NaN (in f16 and f32 alike), a different one
/// everywhere: reading what was never written spoils the results, and writing outside the rows leaves a
/// trace.
template <class T>
class Allocation {
 public:
  explicit Allocation(std::size_t elements)
      : data_(elements + 2 * guard), expected_(data_.size() * sizeof(T)), row_(data_.size()) {
    for (std::size_t i = 0; i < expected_.size(); i += 2) {
      const std::uint64_t noise = toy::hash(i);
      expected_[i] = static_cast<std::uint8_t>(0xc0U | (noise & 0x3fU));
      expected_[i + 1] = (noise & 0x40U) != 0 ? 0xff : 0x7f;
    }
    std::memcpy(static_cast<void*>(data_.data()), expected_.data(), expected_.size());
  }
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;
  ~Allocation() { ASAN_UNPOISON_MEMORY_REGION(data_.data(), expected_.size()); }

  T* data() const { return begin_; }

  /// Marks a row of the pot here, unless it is in another allocation.
  void add_row(const void* address, std::size_t elements) {
    const auto* const row = static_cast<const T*>(address);
    if (row < data_.data() || row >= data_.data() + data_.size()) return;
    std::fill_n(row_.begin() + (row - data_.data()), elements, true);
  }

  /// From now on only rows may be touched.
  void close() {
    for (std::size_t i = 0, end = 0; i < row_.size(); i = end + 1) {
      for (end = i; end < row_.size() && !row_[end];) ++end;
      ASAN_POISON_MEMORY_REGION(data_.data() + i, (end - i) * sizeof(T));
    }
  }

  /// Bytes outside the rows that have changed.
  std::size_t changed() {
    ASAN_UNPOISON_MEMORY_REGION(data_.data(), expected_.size());
    std::vector<std::uint8_t> bytes(expected_.size());
    std::memcpy(bytes.data(), static_cast<const void*>(data_.data()), bytes.size());
    std::size_t count = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i)
      if (!row_[i / sizeof(T)] && bytes[i] != expected_[i]) ++count;
    close();
    return count;
  }

 private:
  static constexpr std::size_t guard = 64;

  std::vector<T> data_;
  T* begin_ = data_.data() + guard;
  std::vector<std::uint8_t> expected_;  // (bytes)
  std::vector<bool> row_;               // (elements) belongs to a row of the pot
};

/// Where the toy engine finds keys and values. Virtual, so that the engine is the same machine code whoever
/// owns the memory: any bit that differs is then the store's doing.
template <class T>
class Cache {
 public:
  explicit Cache(KeyStorage storage) : storage_(storage) {}
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;
  virtual ~Cache() = default;

  virtual T* key(std::size_t layer, std::size_t head, std::size_t position) const = 0;
  virtual T* value(std::size_t layer, std::size_t head, std::size_t position) const = 0;

  // What toy::Engine needs of a store.
  struct Keys {
    const Cache* cache;
    std::size_t layer;
    T* row(std::size_t head, std::size_t position) const { return cache->key(layer, head, position); }
  };
  struct Values {
    const Cache* cache;
    std::size_t layer;
    T* row(std::size_t head, std::size_t position) const { return cache->value(layer, head, position); }
  };
  Keys keys(std::size_t layer) const { return {this, layer}; }
  Values values(std::size_t layer) const { return {this, layer}; }
  std::size_t capacity() const { return ::capacity; }
  KeyStorage key_storage() const { return storage_; }

 private:
  KeyStorage storage_;
};

/// A pot's own memory.
template <class T>
class OwnMemory final : public Cache<T> {
 public:
  explicit OwnMemory(const Pot<T>& pot) : Cache<T>(pot.key_storage()), pot_(pot) {}

  T* key(std::size_t layer, std::size_t head, std::size_t position) const override {
    return pot_.keys(layer).row(head, position);
  }
  T* value(std::size_t layer, std::size_t head, std::size_t position) const override {
    return pot_.values(layer).row(head, position);
  }

 private:
  const Pot<T>& pot_;
};

// ---------------------------------------------------------------- engines
//
// key() and value() are what each engine's code computes, layout() is what its author tells the pot.

std::ptrdiff_t stride(std::size_t elements) { return static_cast<std::ptrdiff_t>(elements); }

/// calm (src/infer.c): one array of keys and one of values, (layer, seq_len, kv_heads * head_dim), f16. Pairs
/// are interleaved, and only the first rotary_dim channels turn. (Its GPU code tiles keys and transposes
/// values: those rows are not rows of memory, and strides cannot express them.)
class Calm final : public Cache<f16> {
 public:
  using Element = f16;
  static constexpr const char* name = "Calm";
  static toy::Model model() {
    return toy::Model(plain_rope(6, 100, Pairing::interleaved),
                      {.layers = 3, .query_heads = 4, .kv_heads = 2, .head_dim = 10});
  }

  Calm(const Shape& shape, KeyStorage storage)
      : Cache(storage), head_dim_(shape.head_dim), kv_dim_(shape.kv_heads * shape.head_dim) {}

  f16* key(std::size_t l, std::size_t head, std::size_t kv_pos) const override {
    f16* const kb = key_cache_.data() + l * context * kv_dim_;
    return kb + kv_pos * kv_dim_ + head * head_dim_;
  }
  f16* value(std::size_t l, std::size_t head, std::size_t kv_pos) const override {
    f16* const vb = value_cache_.data() + l * context * kv_dim_;
    return vb + kv_pos * kv_dim_ + head * head_dim_;
  }
  KvLayout<f16> layout() const {
    const std::ptrdiff_t layer = stride(context * kv_dim_), head = stride(head_dim_), entry = stride(kv_dim_);
    return {strided_rows(key_cache_.data(), model().shape.layers, layer, head, entry),
            strided_rows(value_cache_.data(), model().shape.layers, layer, head, entry)};
  }
  std::vector<Allocation<f16>*> allocations() { return {&key_cache_, &value_cache_}; }

 private:
  std::size_t head_dim_, kv_dim_;
  Allocation<f16> key_cache_{model().shape.layers * context * kv_dim_};
  Allocation<f16> value_cache_{model().shape.layers * context * kv_dim_};
};

/// gemma.cpp (gemma/attention.cc): one row per position, [layer][kv_head][K, V], f32, rows an odd number of
/// cache lines apart. Pairs are split by halves. Logits are capped, and some layers see only a window.
class GemmaCpp final : public Cache<float> {
 public:
  using Element = float;
  static constexpr const char* name = "GemmaCpp";
  static toy::Model model() {
    toy::Model gemma(plain_rope(10, 100, Pairing::half_split),
                     {.layers = 3, .query_heads = 4, .kv_heads = 2, .head_dim = 10});
    for (toy::Layer& layer : gemma.layers) layer.form = {.scale = 0.25F, .soft_cap = 5};
    gemma.layers[1].form.window = 12;
    return gemma;
  }

  GemmaCpp(const Shape& shape, KeyStorage storage)
      : Cache(storage),
        qkv_dim_(shape.head_dim),
        cache_layer_size_(shape.kv_heads * shape.head_dim * 2),
        row_(odd_lines(shape.layers * cache_layer_size_)) {}

  float* key(std::size_t layer_idx, std::size_t head, std::size_t pos) const override {
    return kv_cache_.data() + pos * row_ + layer_idx * cache_layer_size_ + head * qkv_dim_ * 2;
  }
  float* value(std::size_t layer_idx, std::size_t head, std::size_t pos) const override {
    return key(layer_idx, head, pos) + qkv_dim_;
  }
  KvLayout<float> layout() const {
    const std::ptrdiff_t layer = stride(cache_layer_size_), head = stride(2 * qkv_dim_), entry = stride(row_);
    return {strided_rows(kv_cache_.data(), model().shape.layers, layer, head, entry),
            strided_rows(kv_cache_.data() + qkv_dim_, model().shape.layers, layer, head, entry)};
  }
  std::vector<Allocation<float>*> allocations() { return {&kv_cache_}; }

 private:
  static std::size_t odd_lines(std::size_t floats) { return (((floats + 15) / 16) | 1U) * 16; }

  std::size_t qkv_dim_, cache_layer_size_, row_;
  Allocation<float> kv_cache_{context * row_};
};

/// llama.cpp in its first weeks, before cells (March 2023, llama_eval_internal): two tensors
/// (n_layer, n_ctx, n_embd), f16, in one buffer, each after its header. Values are not transposed yet,
/// and every head has its own keys. Pairs are interleaved.
class FirstLlamaCpp final : public Cache<f16> {
 public:
  using Element = f16;
  static constexpr const char* name = "FirstLlamaCpp";
  static toy::Model model() {
    return toy::Model(plain_rope(8, 100, Pairing::interleaved),
                      {.layers = 2, .query_heads = 3, .kv_heads = 3, .head_dim = 8});
  }

  FirstLlamaCpp(const Shape& shape, KeyStorage storage)
      : Cache(storage),
        head_dim_(shape.head_dim),
        n_embd_(shape.query_heads * shape.head_dim),
        tensor_(shape.layers * context * n_embd_) {}

  f16* key(std::size_t il, std::size_t head, std::size_t n_past) const override {
    return memory_k() + n_embd_ * (il * context + n_past) + head * head_dim_;
  }
  f16* value(std::size_t il, std::size_t head, std::size_t n_past) const override {
    return memory_v() + n_embd_ * (il * context + n_past) + head * head_dim_;
  }
  KvLayout<f16> layout() const {
    const std::ptrdiff_t layer = stride(context * n_embd_), head = stride(head_dim_), entry = stride(n_embd_);
    return {strided_rows(memory_k(), model().shape.layers, layer, head, entry),
            strided_rows(memory_v(), model().shape.layers, layer, head, entry)};
  }
  std::vector<Allocation<f16>*> allocations() { return {&buf_}; }

 private:
  static constexpr std::size_t header = 88;  // elements; the exact size does not matter

  f16* memory_k() const { return buf_.data() + header; }
  f16* memory_v() const { return buf_.data() + header + tensor_ + header; }

  std::size_t head_dim_, n_embd_, tensor_;
  Allocation<f16> buf_{2 * (header + tensor_)};
};

/// llama.cpp with flash attention (which leaves values untransposed) and its cells in order: tensors k and v
/// of each layer, (n_ctx, kv_heads * head_dim), f16, alternating in one buffer, each aligned to 32 bytes.
class LlamaCpp final : public Cache<f16> {
 public:
  using Element = f16;
  static constexpr const char* name = "LlamaCpp";
  static toy::Model model() {
    return toy::Model(plain_rope(12, 100, Pairing::interleaved),
                      {.layers = 2, .query_heads = 6, .kv_heads = 2, .head_dim = 12});
  }

  LlamaCpp(const Shape& shape, KeyStorage storage)
      : Cache(storage),
        head_dim_(shape.head_dim),
        n_embd_gqa_(shape.kv_heads * shape.head_dim),
        tensor_((context * n_embd_gqa_ + 15) / 16 * 16) {}

  f16* key(std::size_t il, std::size_t head, std::size_t cell) const override {
    return k_l(il) + cell * n_embd_gqa_ + head * head_dim_;
  }
  f16* value(std::size_t il, std::size_t head, std::size_t cell) const override {
    return v_l(il) + cell * n_embd_gqa_ + head * head_dim_;
  }
  KvLayout<f16> layout() const {
    const std::ptrdiff_t layer = stride(2 * tensor_), head = stride(head_dim_), entry = stride(n_embd_gqa_);
    return {strided_rows(k_l(0), model().shape.layers, layer, head, entry),
            strided_rows(v_l(0), model().shape.layers, layer, head, entry)};
  }
  std::vector<Allocation<f16>*> allocations() { return {&buffer_}; }

 private:
  f16* k_l(std::size_t il) const { return buffer_.data() + 2 * il * tensor_; }
  f16* v_l(std::size_t il) const { return buffer_.data() + (2 * il + 1) * tensor_; }

  std::size_t head_dim_, n_embd_gqa_, tensor_;
  Allocation<f16> buffer_{model().shape.layers * 2 * tensor_};
};

/// yalm (src/model.cpp): keys and values of every block allocated separately, (seq_len, kv_heads * head_dim),
/// f16 as uint16_t.
class Yalm final : public Cache<f16> {
 public:
  using Element = f16;
  static constexpr const char* name = "Yalm";
  static toy::Model model() {
    return toy::Model(plain_rope(8, 100, Pairing::interleaved),
                      {.layers = 3, .query_heads = 4, .kv_heads = 2, .head_dim = 8});
  }

  Yalm(const Shape& shape, KeyStorage storage)
      : Cache(storage), head_dim_(shape.head_dim), kv_dim_(shape.kv_heads * shape.head_dim) {
    for (std::size_t i = 0; i < shape.layers; ++i) {
      key_caches_.push_back(std::make_unique<Allocation<std::uint16_t>>(context * kv_dim_));
      value_caches_.push_back(std::make_unique<Allocation<std::uint16_t>>(context * kv_dim_));
    }
  }

  f16* key(std::size_t block, std::size_t head, std::size_t kv_pos) const override {
    return infinipot::element_cast<f16>(key_caches_[block]->data()) + kv_pos * kv_dim_ + head * head_dim_;
  }
  f16* value(std::size_t block, std::size_t head, std::size_t kv_pos) const override {
    return infinipot::element_cast<f16>(value_caches_[block]->data()) + kv_pos * kv_dim_ + head * head_dim_;
  }
  KvLayout<f16> layout() const {
    KvLayout<f16> layout;
    for (std::size_t block = 0; block < key_caches_.size(); ++block) {
      layout.keys.push_back({key(block, 0, 0), stride(head_dim_), stride(kv_dim_)});
      layout.values.push_back({value(block, 0, 0), stride(head_dim_), stride(kv_dim_)});
    }
    return layout;
  }
  std::vector<Allocation<std::uint16_t>*> allocations() {
    std::vector<Allocation<std::uint16_t>*> all;
    for (const auto* caches : {&key_caches_, &value_caches_})
      for (const auto& cache : *caches) all.push_back(cache.get());
    return all;
  }

 private:
  std::size_t head_dim_, kv_dim_;
  std::vector<std::unique_ptr<Allocation<std::uint16_t>>> key_caches_, value_caches_;  // (blocks)
};

// ---------------------------------------------------------------- runs

template <class L>
class ForeignLayout : public testing::Test {
 protected:
  using Element = typename L::Element;

  infinipot::PotSettings settings(Granularity granularity, KeyStorage storage) const {
    return {.shape = model.shape,
            .capacity = capacity,
            .max_keep = 20,
            .granularity = granularity,
            .key_storage = storage,
            .rope = model.rope};
  }

  /// Tells the memory which rows the pot may touch.
  void close(L& memory) const {
    for (auto* allocation : memory.allocations()) {
      for (std::size_t layer = 0; layer < model.shape.layers; ++layer)
        for (std::size_t head = 0; head < model.shape.kv_heads; ++head)
          for (std::size_t position = 0; position < capacity; ++position) {
            allocation->add_row(memory.key(layer, head, position), model.shape.head_dim);
            allocation->add_row(memory.value(layer, head, position), model.shape.head_dim);
          }
      allocation->close();
    }
  }

  const toy::Model model = L::model();
};

struct LayoutName {
  template <class L>
  static std::string GetName(int /*index*/) {
    return L::name;
  }
};
using Layouts = testing::Types<Calm, GemmaCpp, FirstLlamaCpp, LlamaCpp, Yalm>;
TYPED_TEST_SUITE(ForeignLayout, Layouts, LayoutName);

using Bits = std::vector<std::uint8_t>;

template <class T>
void add_bits(Bits& bits, const T* values, std::size_t count) {
  const std::size_t before = bits.size();
  bits.resize(before + count * sizeof(T));
  std::memcpy(bits.data() + before, static_cast<const void*>(values), count * sizeof(T));
}

/// The state after a distillation, or at the end of a text.
struct Moment {
  std::vector<std::vector<Index>> kept;  // by lane
  Snapshot shown;
  Bits rows, logits;
};

/// One reading: the moment after every distillation, and the logits after every piece of the text.
struct Reading {
  std::vector<Moment> moments;
  std::vector<Bits> logits;
};

template <class T, class Reader>
Moment moment_of(const Pot<T>& pot, const Reader& reader) {
  Moment moment;
  moment.shown = snapshot_of(pot, reader);
  const Shape& shape = pot.shape();
  for (std::size_t layer = 0; layer < shape.layers; ++layer)
    for (std::size_t head = 0; head < shape.kv_heads; ++head)
      for (std::size_t t = 0; t < pot.size(); ++t) {
        add_bits(moment.rows, pot.keys(layer).row(head, t), shape.head_dim);
        add_bits(moment.rows, pot.values(layer).row(head, t), shape.head_dim);
      }
  add_bits(moment.logits, reader.logits().data(), reader.logits().size());
  return moment;
}

/// Reads and generates through several distillations.
template <class T, class P>
Reading read(const toy::Model& model, const CcdSpec& spec, const P& policy, Pot<T>& pot, Cache<T>& cache) {
  toy::QueryEngine<Cache<T>> engine(model, cache);
  infinipot::Ccd reader(engine, pot, policy, settings_of(spec, 16));
  Reading reading;
  reader.on_distillation([&](const infinipot::Distillation& d) {
    reading.moments.push_back(moment_of(pot, reader));
    for (std::size_t lane = 0; lane < d.kept.lanes(); ++lane)
      reading.moments.back().kept.emplace_back(d.kept.lane(lane).begin(), d.kept.lane(lane).end());
  });
  const auto note_logits = [&] {
    reading.logits.emplace_back();
    add_bits(reading.logits.back(), reader.logits().data(), reader.logits().size());
  };

  const auto text = toy::text(150, 14);
  for (std::size_t from = 0; from < text.size(); from += 6) {
    reader.feed(std::span(text).subspan(from, 6), from == 6 ? Retention::pinned : Retention::evictable);
    note_logits();
  }
  reader.generate(30, most_likely, [&](Token) {
    note_logits();
    return true;
  });
  reading.moments.push_back(moment_of(pot, reader));
  return reading;
}

void expect_same(const Reading& foreign, const Reading& own) {
  ASSERT_EQ(foreign.moments.size(), own.moments.size());
  ASSERT_GE(own.moments.size(), 7U) << "six distillations and the end";
  for (std::size_t i = 0; i < own.moments.size(); ++i) {
    SCOPED_TRACE("distillation " + std::to_string(i + 1));
    const Moment &a = foreign.moments[i], &b = own.moments[i];
    ASSERT_EQ(a.kept, b.kept);
    ASSERT_EQ(a.rows, b.rows);
    ASSERT_EQ(a.logits, b.logits);
    ASSERT_EQ(a.shown, b.shown);
  }
  EXPECT_EQ(foreign.logits, own.logits);
}

// ---------------------------------------------------------------- tests

TYPED_TEST(ForeignLayout, RowsAreWhereTheEngineHasThem) {
  TypeParam memory(this->model.shape, KeyStorage::rotated);
  const Pot<typename TypeParam::Element> pot(this->settings(Granularity::head, KeyStorage::rotated),
                                             memory.layout());
  for (std::size_t layer = 0; layer < pot.shape().layers; ++layer)
    for (std::size_t head = 0; head < pot.shape().kv_heads; ++head)
      for (std::size_t position = 0; position < capacity; ++position) {
        ASSERT_EQ(pot.keys(layer).row(head, position), memory.key(layer, head, position));
        ASSERT_EQ(pot.values(layer).row(head, position), memory.value(layer, head, position));
      }
}

TYPED_TEST(ForeignLayout, DistilsAsAPotOfItsOwnMemoryDoes) {
  using T = typename TypeParam::Element;
  for (const Kind kind : ways_to_look)
    for (const Granularity granularity : all_granularities)
      for (const KeyStorage storage : both_storages) {
        const auto spec = spec_of(kind, granularity);
        SCOPED_TRACE(trace(spec) + (storage == KeyStorage::rotated ? ", rotated" : ", unrotated"));
        const auto settings = this->settings(granularity, storage);
        TypeParam memory(this->model.shape, storage);
        this->close(memory);
        with_way_to_look(this->model, spec, [&](const auto& policy) {
          Pot<T> pot(settings, memory.layout()), own_pot(settings);
          OwnMemory<T> own_memory(own_pot);
          const Reading foreign = read<T>(this->model, spec, policy, pot, memory);
          const Reading own = read<T>(this->model, spec, policy, own_pot, own_memory);
          expect_same(foreign, own);
        });
        for (auto* allocation : memory.allocations()) ASSERT_EQ(allocation->changed(), 0U);
        if (this->HasFatalFailure()) return;
      }
}

// Both pots could be wrong together. Keys and values of layer 0 depend only on token and position, so the
// engine can write them again, each for the position that the distillations have moved it to.
TYPED_TEST(ForeignLayout, RowsAreAsTheEngineWouldWriteThemWhereTheyStand) {
  using T = typename TypeParam::Element;
  const auto spec = spec_of(Kind::infinipot);
  const double rounding = std::same_as<T, float> ? 0x1p-24 : 0x1p-11;
  const std::size_t d = this->model.shape.head_dim;
  for (const KeyStorage storage : both_storages) {
    TypeParam memory(this->model.shape, storage);
    Pot<T> pot(this->settings(Granularity::head, storage), memory.layout());
    with_way_to_look(this->model, spec,
                     [&](const auto& policy) { read<T>(this->model, spec, policy, pot, memory); });
    for (std::size_t head = 0; head < this->model.shape.kv_heads; ++head) {
      Pot<T> fresh(this->settings(Granularity::head, KeyStorage::rotated));
      OwnMemory<T> fresh_memory(fresh);
      toy::QueryEngine<Cache<T>> engine(this->model, fresh_memory);
      infinipot::Ccd(engine, fresh, infinipot::StreamingLlm(), {.keep = 20}).feed(pot.entries().tokens(head));
      ASSERT_EQ(fresh.size(), pot.size());
      for (std::size_t t = 0; t < pot.size(); ++t) {
        SCOPED_TRACE(testing::Message() << "head " << head << ", entry " << t);
        std::vector<float> tile(d);
        const float* const key = pot.key_rows(0, head, t, 1, tile.data()).data;
        const T* const expected = fresh.keys(0).row(head, t);
        double norm = 0;
        for (std::size_t k = 0; k < d; ++k) norm = std::hypot(norm, static_cast<double>(expected[k]));
        // The key was rounded, both channels of a pair, turned, and rounded again; the expected one was
        // rounded once. Sines, cosines and products are floats.
        const double bound = norm * (3.5 * rounding + 16 * 0x1p-24);
        for (std::size_t k = 0; k < d; ++k) {
          ASSERT_NEAR(static_cast<double>(key[k]), static_cast<double>(expected[k]), bound) << k;
          ASSERT_EQ(memory.value(0, head, t)[k], fresh.values(0).row(head, t)[k]) << k;
        }
      }
    }
  }
}

TYPED_TEST(ForeignLayout, AllocatesNothingWhileItReads) {
  using T = typename TypeParam::Element;
  for (const Kind kind : ways_to_look)
    for (const KeyStorage storage : both_storages) {
      const auto spec = spec_of(kind);
      const auto text = toy::text(150, 15);
      TypeParam memory(this->model.shape, storage);
      with_way_to_look(this->model, spec, [&](const auto& policy) {
        Pot<T> pot(this->settings(Granularity::head, storage), memory.layout());
        toy::QueryEngine<Cache<T>> engine(this->model, memory);
        infinipot::Ccd reader(engine, pot, policy, settings_of(spec, 16));
        const allocation_counter::Scope counted;
        reader.feed(text);
        const std::size_t calls = counted.calls();
        EXPECT_EQ(calls, 0U) << trace(spec);
        EXPECT_GE(reader.stats().distillations, 5U);
      });
    }
}

}  // namespace
