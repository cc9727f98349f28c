#include "linear.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "allocation_counter.hpp"
#include "dequantize.hpp"

namespace smollm2 {
namespace {

constexpr GgmlType all_types[] = {GgmlType::f32,  GgmlType::f16,  GgmlType::bf16,
                                  GgmlType::q4_0, GgmlType::q4_1, GgmlType::q8_0};

/// Bits of a half between 2^-4 and 2^-2, with any sign.
std::uint16_t random_half(std::mt19937& random) {
  return static_cast<std::uint16_t>((random() & 0x83ffU) | ((11 + random() % 2) << 10));
}

/// One row of a tensor: random blocks of numbers that are neither huge nor tiny.
std::vector<std::byte> random_row(GgmlType type, std::size_t inputs, std::mt19937& random) {
  const BlockLayout layout = *block_layout(type);
  std::vector<std::byte> row;
  const auto put = [&row](auto value) {
    const auto bytes = std::as_bytes(std::span(&value, 1));
    row.insert(row.end(), bytes.begin(), bytes.end());
  };
  for (std::size_t block = 0; block < inputs / layout.values; ++block) {
    const std::uint16_t half = random_half(random);
    if (type == GgmlType::f32) {
      put(half_to_float(half));
    } else if (type == GgmlType::bf16) {
      put(static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(half_to_float(half)) >> 16));
    } else {
      put(half);
    }
    if (type == GgmlType::q4_1) put(random_half(random));
    while (row.size() < (block + 1) * layout.bytes) put(static_cast<std::uint8_t>(random()));
  }
  return row;
}

/// Rows of some types in turn, and the numbers that dequantize() finds in them.
struct Weights {
  Weights(std::size_t outputs, std::size_t inputs, std::vector<GgmlType> types_in_turn, unsigned seed = 1)
      : types(std::move(types_in_turn)), coded(outputs, inputs, types), plain(outputs, inputs, floats) {
    std::mt19937 random(seed);
    for (std::size_t output = 0; output < outputs; ++output) {
      const GgmlType type = types[output % types.size()];
      set_row(output, type, random_row(type, inputs, random));
    }
  }

  void set_row(std::size_t output, GgmlType type, const std::vector<std::byte>& row) {
    std::vector<float>& numbers = rows.emplace_back(coded.inputs());
    dequantize(type, row, numbers);
    coded.set_row(output, type, row);
    plain.set_row(output, GgmlType::f32, std::as_bytes(std::span(numbers)));
  }

  static constexpr GgmlType floats[] = {GgmlType::f32};
  std::vector<GgmlType> types;
  std::vector<std::vector<float>> rows;  // (outputs, inputs)
  Linear coded;                          // stored as its types
  Linear plain;                          // stored as floats
};

Matrix random_matrix(std::size_t rows, std::size_t columns, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Matrix matrix(rows, columns);
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t j = 0; j < padded(columns); ++j) matrix.row(i)[j] = normal(random);
  return matrix;
}

/// All bits of `columns` numbers a row.
std::vector<std::uint32_t> bits_of(ConstMatrixView matrix, std::size_t columns) {
  std::vector<std::uint32_t> bits;
  for (std::size_t i = 0; i < matrix.rows; ++i)
    for (std::size_t j = 0; j < columns; ++j) bits.push_back(std::bit_cast<std::uint32_t>(matrix.row(i)[j]));
  return bits;
}

/// What y becomes, starting from the same random numbers each time.
Matrix product(const Linear& linear, ConstMatrixView x, Write write, std::size_t threads = 2) {
  ThreadPool pool(threads);
  Workspace workspace(pool, linear.inputs());
  Matrix y = random_matrix(x.rows, linear.outputs(), 9);
  linear.multiply_all(x, y.view(), write, workspace);
  return y;
}

void expect_the_bits_of_floats(const Weights& weights, std::size_t rows) {
  SCOPED_TRACE(testing::Message() << "type " << static_cast<unsigned>(weights.types.front()) << ", "
                                  << weights.coded.outputs() << " x " << weights.coded.inputs() << ", "
                                  << rows << " rows");
  const Matrix x = random_matrix(rows, weights.coded.inputs(), 2);
  for (const Write write : {Write::set, Write::add}) {
    Matrix coded = product(weights.coded, x.view(), write), plain = product(weights.plain, x.view(), write);
    ASSERT_EQ(bits_of(coded.view(), weights.coded.outputs()), bits_of(plain.view(), weights.coded.outputs()));
  }
}

TEST(Linear, GivesBackTheNumbersOfEachRow) {
  for (const GgmlType type : all_types) {
    const Weights weights(2 * panel_width + 3, 96, {type});
    std::vector<float> found(96);
    for (std::size_t output = 0; output < weights.rows.size(); ++output) {
      weights.coded.get_row(output, found);
      ASSERT_EQ(std::vector<std::uint32_t>(bits_of({found.data(), 1, 96}, 96)),
                std::vector<std::uint32_t>(bits_of({weights.rows[output].data(), 1, 96}, 96)))
          << static_cast<unsigned>(type) << " row " << output;
    }
  }
}

// u = 2^-24 is the unit roundoff. A sum of n products, each rounded at most twice on its way into the sum, is
// off by less than (n + 1) u times the sum of magnitudes, as far as n u is small; adding it to y rounds once
// more.
TEST(Linear, AgreesWithDoublePrecision) {
  for (const GgmlType type : all_types)
    for (const std::size_t inputs : {32U, 160U, 576U})
      for (const std::size_t rows : {1U, 7U, 40U}) {
        const Weights weights(panel_width + 5, inputs, {type});
        const Matrix x = random_matrix(rows, inputs, 2);
        const Matrix before = random_matrix(rows, panel_width + 5, 9);
        for (const Write write : {Write::set, Write::add}) {
          Matrix y = product(weights.coded, x.view(), write);
          for (std::size_t row = 0; row < rows; ++row)
            for (std::size_t output = 0; output < weights.rows.size(); ++output) {
              double sum = 0, magnitude = 0;
              for (std::size_t k = 0; k < inputs; ++k) {
                const double term =
                    static_cast<double>(weights.rows[output][k]) * static_cast<double>(x.view().row(row)[k]);
                sum += term;
                magnitude += std::abs(term);
              }
              if (write == Write::add) sum += static_cast<double>(before.view().row(row)[output]);
              const double u = std::ldexp(1.0, -24),
                           tolerance = u * (static_cast<double>(inputs + 1) * magnitude);
              ASSERT_NEAR(static_cast<double>(y.row(row)[output]), sum, tolerance + u * std::abs(sum))
                  << static_cast<unsigned>(type) << ": " << row << ", " << output;
            }
        }
      }
}

TEST(Linear, GivesTheBitsOfFloatsForAnyNumberOfRows) {
  for (const GgmlType type : {GgmlType::q4_0, GgmlType::q4_1, GgmlType::q8_0}) {
    const Weights weights(panel_width + 1, 64, {type});
    for (std::size_t rows = 1; rows <= 200; ++rows) expect_the_bits_of_floats(weights, rows);
    for (const std::size_t rows : {task_rows, task_rows + 1, 2 * task_rows + 1, 3 * task_rows})
      expect_the_bits_of_floats(weights, rows);
  }
}

TEST(Linear, GivesTheBitsOfFloatsForAnySize) {
  for (const GgmlType type : all_types)
    for (const std::size_t outputs :
         {std::size_t{1}, panel_width - 1, panel_width, 3 * panel_width + 7, 40 * panel_width})
      for (const std::size_t inputs : {32U, 96U, 256U})
        for (const std::size_t rows : {std::size_t{1}, tile_rows, tile_rows + 1})
          expect_the_bits_of_floats(Weights(outputs, inputs, {type}), rows);
  for (const GgmlType type : {GgmlType::f32, GgmlType::f16, GgmlType::bf16})
    for (const std::size_t inputs : {1U, 31U, 33U, 257U})
      for (const std::size_t rows : {1U, 20U})
        expect_the_bits_of_floats(Weights(panel_width + 2, inputs, {type}), rows);
}

TEST(Linear, StacksRowsOfDifferentTypes) {
  using enum GgmlType;
  for (const std::vector<GgmlType>& types :
       {std::vector{q4_0, q4_1}, {q8_0, q4_0}, {q4_1, q8_0, q4_0}, {q4_1, f32}, {bf16, q8_0, f16, q4_0, f32}})
    for (const std::size_t rows : {std::size_t{1}, tile_rows, 3 * tile_rows})
      expect_the_bits_of_floats(Weights(2 * panel_width + 9, 96, types), rows);
}

TEST(Linear, GivesTheSameBitsHoweverRowsAreCutAndOnAnyNumberOfThreads) {
  for (const GgmlType type : {GgmlType::f32, GgmlType::q4_1, GgmlType::q8_0}) {
    const Weights weights(5 * panel_width, 96, {type});
    const std::size_t rows = 2 * task_rows + 5, outputs = weights.coded.outputs();
    const Matrix x = random_matrix(rows, 96, 3);
    const Matrix whole = product(weights.coded, x.view(), Write::set);
    for (const std::size_t threads : {1U, 3U, 8U})
      EXPECT_EQ(bits_of(product(weights.coded, x.view(), Write::set, threads).view(), outputs),
                bits_of(whole.view(), outputs));
    for (const std::size_t part : {std::size_t{1}, tile_rows + 1, task_rows})
      for (std::size_t first = 0; first < rows; first += part) {
        const std::size_t count = std::min(part, rows - first);
        ASSERT_EQ(bits_of(product(weights.coded, x.view().slice(first, count), Write::set).view(), outputs),
                  bits_of(whole.view().slice(first, count), outputs))
            << count << " rows from " << first;
      }
  }
}

/// A block of a Q type whose scale and offset are these bits, with all codes that there are.
std::vector<std::byte> block_of(GgmlType type, std::uint16_t scale, std::uint16_t offset) {
  std::vector<std::byte> block;
  for (const std::uint16_t half : {scale, offset}) {
    block.push_back(static_cast<std::byte>(half & 0xffU));
    block.push_back(static_cast<std::byte>(half >> 8));
    if (type != GgmlType::q4_1) break;
  }
  while (block.size() < block_layout(type)->bytes) block.push_back(static_cast<std::byte>(17 * block.size()));
  return block;
}

TEST(Linear, KeepsZerosSubnormalsAndWhatIsNoNumber) {
  constexpr std::uint16_t halves[] = {0, 0x8000, 1, 0x8001, 0x03ff, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00};
  for (const GgmlType type : {GgmlType::q4_0, GgmlType::q4_1, GgmlType::q8_0}) {
    Weights weights(std::size(halves) * std::size(halves), 32, {type});
    weights.rows.clear();
    for (std::size_t i = 0; i < weights.coded.outputs(); ++i)
      weights.set_row(i, type, block_of(type, halves[i % std::size(halves)], halves[i / std::size(halves)]));
    const auto same = [](float a, float b) {
      return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) ||
             (std::isnan(a) && std::isnan(b));
    };
    std::vector<float> found(32);
    for (std::size_t output = 0; output < weights.coded.outputs(); ++output) {
      weights.coded.get_row(output, found);
      for (std::size_t k = 0; k < 32; ++k)
        ASSERT_PRED2(same, found[k], weights.rows[output][k]) << output << ", " << k;
    }
    for (const std::size_t rows : {std::size_t{1}, 2 * tile_rows}) {
      Matrix x = random_matrix(rows, 32, 4);
      x.row(0)[5] = std::numeric_limits<float>::infinity();
      Matrix coded = product(weights.coded, x.view(), Write::set),
             plain = product(weights.plain, x.view(), Write::set);
      for (std::size_t row = 0; row < rows; ++row)
        for (std::size_t output = 0; output < weights.coded.outputs(); ++output)
          ASSERT_PRED2(same, coded.row(row)[output], plain.row(row)[output]) << row << ", " << output;
    }
  }
}

TEST(Linear, DoesNothingForNoRows) {
  const Weights weights(panel_width, 32, {GgmlType::q8_0});
  EXPECT_EQ(product(weights.coded, Matrix(0, 32).view(), Write::set).view().rows, 0U);
}

// Relative to the magnitudes in the products, which the sigmoid's slope of at most 1.1 does not enlarge much.
TEST(GatedMultiply, AgreesWithDoublePrecisionAndWithFloats) {
  const std::size_t outputs = 2 * panel_width + 3, inputs = 64;
  for (const GgmlType type : {GgmlType::f32, GgmlType::q4_1, GgmlType::q8_0})
    for (const std::size_t rows : {std::size_t{1}, tile_rows + 2, task_rows + 1}) {
      const Weights gate(outputs, inputs, {type}, 5), up(outputs, inputs, {type}, 6);
      const Matrix x = random_matrix(rows, inputs, 7);
      ThreadPool pool(2);
      Workspace workspace(pool, inputs);
      Matrix coded(rows, outputs), plain(rows, outputs);
      gated_multiply(gate.coded, up.coded, x.view(), coded.view(), workspace);
      gated_multiply(gate.plain, up.plain, x.view(), plain.view(), workspace);
      EXPECT_EQ(bits_of(coded.view(), outputs), bits_of(plain.view(), outputs));
      for (std::size_t row = 0; row < rows; ++row)
        for (std::size_t output = 0; output < outputs; ++output) {
          double g = 0, u = 0, g_size = 0, u_size = 0;
          for (std::size_t k = 0; k < inputs; ++k) {
            const double value = static_cast<double>(x.view().row(row)[k]);
            g += static_cast<double>(gate.rows[output][k]) * value;
            u += static_cast<double>(up.rows[output][k]) * value;
            g_size += std::abs(static_cast<double>(gate.rows[output][k]) * value);
            u_size += std::abs(static_cast<double>(up.rows[output][k]) * value);
          }
          const double tolerance = std::ldexp(static_cast<double>(inputs + 16), -24) * 2 * g_size * u_size;
          ASSERT_NEAR(static_cast<double>(coded.row(row)[output]), g / (1 + std::exp(-g)) * u, tolerance);
        }
    }
}

TEST(Linear, AllocatesNothing) {
  const Weights weights(3 * panel_width, 64, {GgmlType::q4_1}), other(3 * panel_width, 64, {GgmlType::q8_0});
  ThreadPool pool(2);
  Workspace workspace(pool, 64);
  const Matrix x = random_matrix(40, 64, 1);
  Matrix y(40, 3 * panel_width);
  const allocation_counter::Scope counted;
  for (const std::size_t rows : {1U, 40U}) {
    weights.coded.multiply_all(x.view().slice(0, rows), y.view(), Write::set, workspace);
    other.coded.multiply_all(x.view().slice(0, rows), y.view(), Write::add, workspace);
    gated_multiply(weights.coded, other.coded, x.view().slice(0, rows), y.view(), workspace);
  }
  const std::size_t calls = counted.calls();
  EXPECT_EQ(calls, 0U);
}

}  // namespace
}  // namespace smollm2
