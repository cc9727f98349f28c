// The files that the fuzzers begin with are good ones; otherwise a fuzzer would not get far.
// After a change of a format write them anew: INFINIPOT_WRITE_SEEDS=1 fuzz_seeds_test
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "smollm2/tiny_vocabulary.hpp"
#include "try_archive.hpp"
#include "try_model.hpp"
#include "try_pot_file.hpp"

namespace {

using infinipot::Granularity;
using infinipot::KeyStorage;
using infinipot::Pairing;
using infinipot::PotSettings;

std::filesystem::path seeds(const char* fuzzer) {
  return std::filesystem::path(__FILE__).parent_path() / "seeds" / fuzzer;
}

std::vector<std::string> read_all(const std::filesystem::path& folder) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream file(entry.path(), std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return files;
}

void write(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(file.flush()) << path;
}

/// A pot that was distilled once, and holds two more entries.
template <class T>
void write_pot(const char* name, const PotSettings& settings) {
  infinipot::Pot<T> pot(settings);
  const infinipot::Shape shape = pot.shape();
  std::uint64_t position = 0;
  const auto append = [&](std::size_t count) {
    for (; count > 0; --count) {
      for (std::size_t pair = 0; pair < shape.heads(); ++pair) {
        const std::vector<float> row(shape.head_dim, 0.25F * static_cast<float>(pot.size() + pair));
        pot.write(pair / shape.kv_heads, pair % shape.kv_heads, pot.size(), row.data(), row.data());
      }
      pot.append(std::array{infinipot::Entry{.position = position++}});
    }
  };
  append(pot.capacity());
  pot.keep(fuzz::some_of(pot));
  append(2);
  std::ostringstream out;
  infinipot::save_pot(pot, out);
  const std::string text = out.str();
  write(seeds("pot_file") / name, std::as_bytes(std::span(text)));
}

/// Some blocks, not all of them full, and beyond a limit the last ones.
void write_archive(const char* name, const infinipot::ArchiveSettings& settings) {
  const std::filesystem::path path = seeds("archive") / name;
  std::filesystem::remove(path);
  auto archive = infinipot::FileArchive::create(path.string(), settings);
  for (int round = 0; round < 2; ++round) fuzz::append_some(archive);
}

/// `scaled` has LongRoPE, biases and norms of heads, the other none of it.
void write_model(const char* file, const std::string& architecture, bool scaled) {
  using smollm2::GgmlType;
  constexpr std::size_t width = 2, vocabulary = 28;
  smollm2::test::GgufWriter writer = smollm2::test::TinyVocabulary().build();
  writer.string("general.architecture", architecture);
  for (const char* name : {"block_count", "attention.head_count", "attention.head_count_kv"})
    writer.u32(architecture + "." + name, 1);
  for (const char* name : {"embedding_length", "feed_forward_length", "context_length"})
    writer.u32(architecture + "." + name, width);
  writer.f32(architecture + ".rope.freq_base", 100)
      .f32(architecture + ".attention.layer_norm_rms_epsilon", 1e-5F);
  const std::vector<float> numbers(width * vocabulary, 0.5F);
  const auto all = std::as_bytes(std::span(numbers));
  writer.tensor("token_embd.weight", GgmlType::f32, {width, vocabulary}, all);
  for (const char* name : {"output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"})
    writer.tensor(std::string(name) + ".weight", GgmlType::f32, {width}, all.first(width * sizeof(float)));
  for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"})
    writer.tensor("blk.0." + std::string(name) + ".weight", GgmlType::f32, {width, width},
                  all.first(width * width * sizeof(float)));
  if (scaled) {
    writer.string(architecture + ".rope.scaling.type", "longrope")
        .f32(architecture + ".rope.scaling.attn_factor", 1.25F)
        .u32(architecture + ".rope.scaling.original_context_length", 2);
    for (const char* name : {"rope_factors_short.weight", "rope_factors_long.weight"})
      writer.tensor(name, GgmlType::f32, {width / 2}, all.first(width / 2 * sizeof(float)));
    for (const char* name : {"attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias",
                             "attn_q_norm.weight", "attn_k_norm.weight"})
      writer.tensor("blk.0." + std::string(name), GgmlType::f32, {width}, all.first(width * sizeof(float)));
  }
  write(seeds("model") / file, writer.build());
}

TEST(FuzzSeeds, AreWrittenIfWanted) {
  if (std::getenv("INFINIPOT_WRITE_SEEDS") == nullptr) GTEST_SKIP() << "INFINIPOT_WRITE_SEEDS is not set";
  const PotSettings settings{
      .shape = {2, 2, 1, 4}, .capacity = 6, .max_keep = 3, .rope = infinipot::plain_rope(4)};
  write_pot<infinipot::f32>("f32", settings);
  write_pot<infinipot::f16>("f16", settings);
  write_pot<infinipot::bf16>("bf16", settings);
  write_pot<infinipot::int8>("int8", settings);
  write_pot<infinipot::int4>("int4", settings);
  PotSettings others = settings;
  others.granularity = Granularity::layer;
  others.key_storage = KeyStorage::unrotated;
  write_pot<infinipot::f32>("unrotated", others);
  others.granularity = Granularity::shared;
  others.key_storage = KeyStorage::rotated;
  others.rope = infinipot::plain_rope(2, 100, Pairing::interleaved);
  write_pot<infinipot::f32>("shared", others);
  others = settings;
  others.shape.value_dim = 0;
  others.rope = infinipot::plain_rope(2);
  others.rope.first_channel = 2;
  others.layers_without_rope = {1};
  write_pot<infinipot::f16>("latent", others);
  infinipot::ArchiveSettings archive{.shape = {2, 2, 1, 4}, .rope = infinipot::plain_rope(2), .block = 4};
  const char* const names[] = {"f32", "f16", "int8", "int4", "tokens"};
  for (std::uint32_t type = 0; type < 5; ++type) {
    archive.type = static_cast<infinipot::ArchiveType>(type);
    write_archive(names[type], archive);
  }
  infinipot::ArchiveSettings other_values = archive;
  other_values.type = infinipot::ArchiveType::codes8;
  other_values.shape.value_dim = 6;
  write_archive("wide_values", other_values);
  other_values.shape.value_dim = 0;
  other_values.rope = others.rope;
  write_archive("latent", other_values);
  archive.limit = 1500;
  archive.fingerprint = "tiny";
  write_archive("limited_tokens", archive);
  archive.type = infinipot::ArchiveType::codes4;
  archive.channels = infinipot::plain_key_channels(archive.shape);
  write_archive("limited", archive);
  write_model("tiny.gguf", "llama", false);
  write_model("scaled.gguf", "qwen3", true);
}

TEST(FuzzSeeds, ArePotFiles) {
  const std::vector<std::string> files = read_all(seeds("pot_file"));
  EXPECT_EQ(files.size(), 8U);
  for (const std::string& file : files) EXPECT_TRUE(fuzz::try_pot_file(std::as_bytes(std::span(file))));
}

TEST(FuzzSeeds, AreArchives) {
  const std::vector<std::string> files = read_all(seeds("archive"));
  EXPECT_EQ(files.size(), 9U);
  for (const std::string& file : files) {
    auto bytes = std::as_bytes(std::span(file));
    EXPECT_TRUE(fuzz::try_archive(bytes));
    std::vector<std::byte> repaired(bytes.begin(), bytes.end());
    fuzz::repair_archive(repaired);
    EXPECT_TRUE(std::ranges::equal(repaired, bytes)) << "the fuzzer knows the checksums' places";
  }
}

TEST(FuzzSeeds, AreModels) {
  const std::vector<std::string> files = read_all(seeds("model"));
  EXPECT_EQ(files.size(), 2U);
  for (const std::string& file : files) EXPECT_TRUE(fuzz::try_model(std::as_bytes(std::span(file))));
}

}  // namespace
