#include "model_fingerprint.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <set>
#include <string>
#include <vector>

#include "options.hpp"
#include "smollm2/gguf_writer.hpp"
#include "temporary_file.hpp"

namespace reading {
namespace {

using test::TemporaryFile;

std::string of_bytes(const std::string& bytes) { return model_fingerprint(TemporaryFile(bytes).path()); }

TEST(ModelFingerprint, IsOfTheContentNotTheName) {
  const std::string bytes(100000, 'x');
  EXPECT_EQ(of_bytes(bytes), of_bytes(bytes));
  EXPECT_EQ(of_bytes(bytes).find("a model ("), 0U);
}

TEST(ModelFingerprint, ADifferenceAnywhereInASmallFileIsSeen) {
  std::string bytes(70000, 'x');
  std::set<std::string> all{of_bytes(bytes)};
  for (const std::size_t at : {0U, 1U, 35000U, 69999U}) {
    bytes[at] = 'y';
    all.insert(of_bytes(bytes));
  }
  all.insert(of_bytes(bytes + "x"));
  all.insert(of_bytes(""));
  EXPECT_EQ(all.size(), 7U);
}

// Megabytes of weights of another model differ everywhere.
TEST(ModelFingerprint, ADifferenceAllOverTheWeightsIsSeen) {
  std::string bytes(std::size_t{9} << 20U, 'x'), other = bytes;
  for (std::size_t at = std::size_t{5} << 20U; at < bytes.size(); at += 10000) other[at] = 'y';
  EXPECT_NE(of_bytes(bytes), of_bytes(other));
}

TEST(ModelFingerprint, NamesTheModel) {
  const auto named = [](const std::string& name) {
    const std::vector<std::byte> bytes = smollm2::test::GgufWriter().string("general.name", name).build();
    return of_bytes(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  };
  EXPECT_EQ(named("Tiny 1B").find("Tiny 1B ("), 0U) << named("Tiny 1B");
  EXPECT_EQ(named("a\nb\xff").find("a b\xef\xbf\xbd ("), 0U);
  EXPECT_LE(named(std::string(5000, 'x')).size(), 200U);
}

TEST(ModelFingerprint, RefusesWhatCannotBeRead) {
  EXPECT_THROW(model_fingerprint("/nowhere/model.gguf"), UsageError);
}

}  // namespace
}  // namespace reading
