#include "gguf.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dequantize.hpp"
#include "gguf_writer.hpp"
#include "test_files.hpp"

namespace smollm2 {
namespace {

using test::Bytes;
using test::GgufWriter;

const std::array<float, 6> numbers{1, 2, 3, 4, 5, 6};

GgufWriter small_file() {
  GgufWriter writer;
  writer.u32("general.alignment", 32).f32("a.float", 0.5F).string("a.string", "text");
  writer.strings("some.strings", {"one", "", "three"}).ints("some.ints", {-1, 0, 7});
  writer.value("a.bool", GgufType::boolean, Bytes().put(std::uint8_t{1}));
  writer.value("a.negative", GgufType::i64, Bytes().put(std::int64_t{-5}));
  writer.value("a.u64", GgufType::u64, Bytes().put(std::numeric_limits<std::uint64_t>::max()));
  writer.value("a.double", GgufType::f64, Bytes().put(0.25));
  writer.tensor("first", GgmlType::f32, {3, 2}, std::as_bytes(std::span(numbers)));
  writer.tensor("second", GgmlType::q4_0, {32}, std::array<std::byte, 18>{});
  return writer;
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const GgufError& error) {
    return error.what();
  }
  return "no error";
}

std::string load_error(const GgufWriter& writer) {
  const std::vector<std::byte> bytes = writer.build();
  return error_of([&] { GgufFile(bytes, "x.gguf"); });
}

// Everything a reader could ask of a file; only GgufError may come of it.
void use_everything(const GgufFile& file) {
  for (const char* key :
       {"general.alignment", "a.float", "a.string", "some.strings", "some.ints", "a.bool"}) {
    error_of([&] { (void)file.unsigned_value(key); });
    error_of([&] { (void)file.float_value(key); });
    error_of([&] { (void)file.bool_value(key); });
    error_of([&] { (void)file.string_value(key); });
    error_of([&] { (void)file.strings(key); });
    error_of([&] { (void)file.ints(key); });
  }
  for (const char* name : {"first", "second"}) {
    error_of([&] {
      const GgufTensor& tensor = file.tensor(name);
      std::vector<float> out(tensor.rows() * tensor.columns());
      dequantize(tensor.type, tensor.data, out);
    });
  }
}

void load_and_use(std::span<const std::byte> bytes) {
  // A copy of its own lets the address sanitizer see reads past the end.
  const std::vector<std::byte> copy(bytes.begin(), bytes.end());
  error_of([&] { use_everything(GgufFile(copy, "x.gguf")); });
}

TEST(GgufFile, ReadsMetadata) {
  const std::vector<std::byte> bytes = small_file().build();
  const GgufFile file(bytes, "x.gguf");
  EXPECT_EQ(file.name(), "x.gguf");
  EXPECT_TRUE(file.has("a.float"));
  EXPECT_FALSE(file.has("a.flo"));
  EXPECT_EQ(file.unsigned_value("general.alignment"), 32U);
  EXPECT_EQ(file.unsigned_value("a.u64"), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(file.unsigned_value("missing", 9), 9U);
  EXPECT_EQ(file.float_value("a.float"), 0.5F);
  EXPECT_EQ(file.float_value("a.double"), 0.25F);
  EXPECT_EQ(file.float_value("missing", 2.5F), 2.5F);
  EXPECT_TRUE(file.bool_value("a.bool"));
  EXPECT_TRUE(file.bool_value("missing", true));
  EXPECT_EQ(file.string_value("a.string"), "text");
  EXPECT_EQ(file.strings("some.strings"), (std::vector<std::string_view>{"one", "", "three"}));
  EXPECT_EQ(file.ints("some.ints"), (std::vector<std::int32_t>{-1, 0, 7}));
}

TEST(GgufFile, ReadsTensors) {
  const std::vector<std::byte> bytes = small_file().build();
  const GgufFile file(bytes, "x.gguf");
  EXPECT_EQ(file.tensor_count(), 2U);
  ASSERT_TRUE(file.has_tensor("first"));
  EXPECT_FALSE(file.has_tensor("third"));
  const GgufTensor& first = file.tensor("first");
  EXPECT_EQ(first.name, "first");
  EXPECT_EQ(first.type, GgmlType::f32);
  EXPECT_EQ(first.columns(), 3U);
  EXPECT_EQ(first.rows(), 2U);
  std::array<float, 6> out{};
  dequantize(first.type, first.data, out);
  EXPECT_EQ(out, numbers);
  EXPECT_EQ(file.tensor("second").data.size(), 18U);
  EXPECT_EQ(file.tensor("second").rows(), 1U);
}

TEST(GgufFile, ListsWhatItHas) {
  const std::vector<std::byte> bytes = small_file().build();
  const GgufFile file(bytes, "x.gguf");
  EXPECT_EQ(file.keys(),
            (std::vector<std::string_view>{"a.bool", "a.double", "a.float", "a.negative", "a.string", "a.u64",
                                           "general.alignment", "some.ints", "some.strings"}));
  EXPECT_EQ(file.tensor_names(), (std::vector<std::string_view>{"first", "second"}));
  EXPECT_EQ(as_float(file.value("a.float")), 0.5);
  EXPECT_EQ(error_of([&] { (void)file.value("b"); }),
            "x.gguf: metadata key 'b': wanted a value, but the key is missing");
}

TEST(GgufFile, MapsAFileAndCanBeMoved) {
  const auto path = std::filesystem::temp_directory_path() / "infinipot_gguf_test.gguf";
  const std::vector<std::byte> bytes = small_file().build();
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  GgufFile opened(path);
  std::filesystem::remove(path);
  const GgufFile file = std::move(opened);
  EXPECT_EQ(file.string_value("a.string"), "text");
  EXPECT_EQ(load<float>(file.tensor("first").data), 1.0F);
}

TEST(GgufFile, MissingFileOrDirectoryIsAnError) {
  EXPECT_EQ(error_of([] { GgufFile("/nonexistent/x.gguf"); }),
            "/nonexistent/x.gguf: cannot open the file: No such file or directory");
  EXPECT_EQ(error_of([] { GgufFile(std::filesystem::path("/")); }), "/: not a regular file");
}

TEST(GgufFile, AccessErrorsNameKeyWantedAndFound) {
  const std::vector<std::byte> bytes = small_file().build();
  const GgufFile file(bytes, "x.gguf");
  EXPECT_EQ(error_of([&] { (void)file.unsigned_value("none"); }),
            "x.gguf: metadata key 'none': wanted a non-negative integer, but the key is missing");
  EXPECT_EQ(error_of([&] { (void)file.unsigned_value("a.negative"); }),
            "x.gguf: metadata key 'a.negative': wanted a non-negative integer, found i64");
  EXPECT_EQ(error_of([&] { (void)file.float_value("some.ints", 1.0F); }),
            "x.gguf: metadata key 'some.ints': wanted a floating-point number, found array of i32");
  EXPECT_EQ(error_of([&] { (void)file.ints("some.strings"); }),
            "x.gguf: metadata key 'some.strings': wanted an array of 32-bit integers, found array of string");
  EXPECT_EQ(error_of([&] { (void)file.tensor("none"); }),
            "x.gguf: tensor 'none': the file has no such tensor");
}

TEST(GgufFile, TruncationAtEveryByteIsAnError) {
  const std::vector<std::byte> bytes = small_file().build();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const std::vector<std::byte> cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    const std::string error = error_of([&] { GgufFile(cut, "x.gguf"); });
    EXPECT_TRUE(error.starts_with("x.gguf: ")) << size << " bytes: " << error;
    EXPECT_EQ(error.find('\n'), std::string::npos);
  }
}

TEST(GgufFile, CorruptionOfAnyByteLoadsOrIsAnError) {
  std::vector<std::byte> bytes = small_file().build();
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const std::byte original = bytes[i];
    for (const int value : {0x00, 0x01, 0x09, 0x20, 0x7f, 0x80, 0xff}) {
      bytes[i] = static_cast<std::byte>(value);
      load_and_use(bytes);
    }
    bytes[i] = original ^ std::byte{1};
    load_and_use(bytes);
    bytes[i] = original;
  }
}

TEST(GgufFile, RefusesOtherFormatsAndVersions) {
  const std::vector<std::byte> other(64, std::byte{'x'});
  EXPECT_EQ(error_of([&] { GgufFile(other, "x"); }),
            "x: header: not a GGUF file (it does not begin with \"GGUF\")");
  GgufWriter writer = small_file();
  writer.version = 2;
  EXPECT_EQ(load_error(writer), "no error");
  writer.version = 1;
  EXPECT_EQ(load_error(writer), "x.gguf: header: version 1 is not supported (2 and 3 are)");
  writer.version = 0x03000000;
  EXPECT_NE(load_error(writer).find("big-endian"), std::string::npos);
}

TEST(GgufFile, RefusesCountsTheFileCannotHold) {
  for (const std::uint64_t count : {std::uint64_t{1000}, std::numeric_limits<std::uint64_t>::max() / 2}) {
    GgufWriter tensors = small_file();
    tensors.extra_tensors = count;
    EXPECT_NE(load_error(tensors).find("header: number of tensors"), std::string::npos)
        << load_error(tensors);
    GgufWriter values = small_file();
    values.extra_values = count;
    EXPECT_NE(load_error(values).find("header: number of metadata keys"), std::string::npos)
        << load_error(values);
  }
}

TEST(GgufFile, RefusesBadValues) {
  const std::uint64_t huge = 9'000'000'000'000'000'000U;
  const auto error_with = [](GgufType type, const Bytes& encoded) {
    return load_error(GgufWriter().value("k", type, encoded));
  };
  EXPECT_EQ(
      error_with(GgufType::string, Bytes().put(huge)),
      "x.gguf: metadata key 0 'k': string length 9000000000000000000 at byte 45 exceeds what the file has "
      "left (19 bytes)");
  EXPECT_NE(error_with(GgufType::array, GgufWriter::array_header(GgufType::u64, huge)).find("array length"),
            std::string::npos);
  EXPECT_NE(
      error_with(GgufType::array, GgufWriter::array_header(GgufType::string, huge)).find("array length"),
      std::string::npos);
  EXPECT_EQ(error_with(GgufType::array, GgufWriter::array_header(GgufType::array, 0)),
            "x.gguf: metadata key 0 'k': arrays of arrays are not supported");
  EXPECT_EQ(error_with(static_cast<GgufType>(13), Bytes()),
            "x.gguf: metadata key 0 'k': unknown value type 13");
  EXPECT_EQ(error_with(GgufType::boolean, Bytes().put(std::uint8_t{2})),
            "x.gguf: metadata key 0 'k': bool value 2 is neither 0 nor 1");
  EXPECT_EQ(load_error(GgufWriter().u32("k", 1).u32("k", 1)),
            "x.gguf: metadata key 1 'k': the key occurs twice");
}

TEST(GgufFile, RefusesBadAlignment) {
  for (const std::uint32_t alignment : {0U, 3U, 48U}) {
    EXPECT_EQ(load_error(GgufWriter().u32("general.alignment", alignment)),
              "x.gguf: metadata key 'general.alignment': " + std::to_string(alignment) +
                  " is not a 32-bit power of two");
  }
  EXPECT_NE(load_error(GgufWriter().string("general.alignment", "32")).find("found string"),
            std::string::npos);
}

TEST(GgufFile, RefusesBadTensors) {
  const auto error_with = [](std::uint32_t type, const std::vector<std::uint64_t>& dims,
                             std::uint64_t offset) {
    const std::array<std::byte, 64> data{};
    return load_error(GgufWriter().entry("t", type, dims, offset).tensor("d", GgmlType::f32, {16}, data));
  };
  const std::uint64_t big = std::uint64_t{1} << 32;
  EXPECT_EQ(error_with(0, {}, 0), "x.gguf: tensor 't': 0 dimensions, but 1 to 4 are supported");
  EXPECT_EQ(error_with(0, {1, 1, 1, 1, 1}, 0), "x.gguf: tensor 't': 5 dimensions, but 1 to 4 are supported");
  EXPECT_EQ(error_with(0, {4, 0}, 0), "x.gguf: tensor 't': dimension 1 is 0");
  EXPECT_EQ(error_with(0, {big, big, big}, 0), "x.gguf: tensor 't': the product of the dimensions overflows");
  EXPECT_EQ(error_with(2, {33}, 0),
            "x.gguf: tensor 't': row length 33 is not a multiple of Q4_0's block of 32");
  EXPECT_EQ(error_with(77, {32}, 0), "x.gguf: tensor 't': unknown type 77");
  EXPECT_EQ(error_with(0, {4}, 4), "x.gguf: tensor 't': offset 4 is not a multiple of the alignment 32");
  EXPECT_EQ(error_with(0, {9}, 32),
            "x.gguf: tensor 't': offset 32 + size 36 exceeds the file's 64 bytes of tensor data");
  EXPECT_NE(error_with(0, {4}, std::uint64_t{0} - 32).find("exceeds"), std::string::npos);
  EXPECT_EQ(
      load_error(
          GgufWriter().entry("t", 0, {4}, 0).tensor("t", GgmlType::f32, {16}, std::array<std::byte, 64>{})),
      "x.gguf: tensor 't': the name occurs twice");
}

TEST(GgufFile, MessagesStayOnOneShortLine) {
  const std::string key = "line\nbreak\x01" + std::string(1000, 'k');
  const std::string error = load_error(GgufWriter().u32(key, 1).u32(key, 1));
  EXPECT_EQ(error.find('\n'), std::string::npos);
  EXPECT_LT(error.size(), 150U);
}

TEST(GgufFile, ReadsTheModel) {
  const auto path = test::model_path();
  if (!path) GTEST_SKIP() << test::no_model;
  const GgufFile file(*path);
  EXPECT_EQ(file.string_value("general.architecture"), "llama");
  EXPECT_EQ(file.unsigned_value("llama.block_count"), 30U);
  EXPECT_EQ(file.strings("tokenizer.ggml.tokens").size(), 49152U);
  EXPECT_EQ(file.tensor_count(), 272U);
  const GgufTensor& embedding = file.tensor("token_embd.weight");
  EXPECT_EQ(embedding.columns(), 576U);
  EXPECT_EQ(embedding.rows(), 49152U);
}

}  // namespace
}  // namespace smollm2
