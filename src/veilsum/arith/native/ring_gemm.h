// The loops around one tile of a matrix product, in blocks that stay in the caches. Included inside the namespace
// of each path, after its own
//     struct Tile {
//         static constexpr size_t rows, columns;   // of a tile
//         static constexpr size_t step;            // a panel's depth is padded to a multiple of this
//         static constexpr size_t depth, block;    // of a panel; columns that are packed together
//         static void pack_a(const Matrix &a, size_t rows, size_t depth, uint64_t *panel);
//         static void pack_b(const Matrix &b, size_t depth, size_t columns, uint64_t *panel);
//         static void multiply(const uint64_t *a, const uint64_t *b, size_t depth, size_t rows, uint64_t *sums);
//     };
// A panel has one word for each of its (padded) elements, in the order its tile likes.
// Source: K. Goto and R. A. van de Geijn, Anatomy of High-Performance Matrix Multiplication (2008).

namespace {

constexpr size_t at_most(size_t a, size_t b) { return a < b ? a : b; }
constexpr size_t padded(size_t size, size_t step) { return (size + step - 1) / step * step; }

// Adds the part of a tile that lies inside of the matrix.
inline void add_tile(const uint64_t *sums, size_t rows, size_t columns, uint64_t *out, size_t stride) {
    for (size_t i = 0; i < rows; i++, sums += Tile::columns, out += stride) {
        if (columns == Tile::columns)
            for (size_t j = 0; j < Tile::columns; j++) out[j] += sums[j];
        else
            for (size_t j = 0; j < columns; j++) out[j] += sums[j];
    }
}

// One block: rows of `a` by `columns` packed columns of b.
void multiply_block(const Matrix &a, size_t n, size_t depth, size_t columns, uint64_t *a_panel,
                    const uint64_t *b_panels, uint64_t *out, size_t stride) {
    const size_t b_size = Tile::columns * padded(depth, Tile::step);
    for (size_t i = 0; i < n; i += Tile::rows) {
        const size_t rows = at_most(Tile::rows, n - i);
        Tile::pack_a({a.at(i, 0), a.row, a.column}, rows, depth, a_panel);
        const uint64_t *b_panel = b_panels;
        for (size_t j = 0; j < columns; j += Tile::columns, b_panel += b_size) {
            alignas(64) uint64_t sums[Tile::rows * Tile::columns];
            Tile::multiply(a_panel, b_panel, depth, rows, sums);
            add_tile(sums, rows, at_most(Tile::columns, columns - j), out + i * stride + j, stride);
        }
    }
}

bool multiply_blocks(const Matrix &a, const Matrix &b, const Sizes &sizes, bool accumulate, uint64_t *out) {
    const auto [n, k, m] = sizes;
    if (!n || !m) return true;
    if (!accumulate) memset(out, 0, n * m * sizeof *out);
    if (!k) return true;
    const size_t most_depth = padded(at_most(Tile::depth, k), Tile::step);
    const size_t most_columns = padded(at_most(Tile::block, m), Tile::columns);
    const size_t a_size = padded(Tile::rows * most_depth, 8), b_size = padded(most_columns * most_depth, 8);
    auto *panels = static_cast<uint64_t *>(aligned_alloc(64, (a_size + b_size) * sizeof(uint64_t)));
    if (!panels) return false;
    uint64_t *a_panel = panels, *b_panels = panels + a_size;
    for (size_t first = 0; first < m; first += Tile::block)
        for (size_t p = 0; p < k; p += Tile::depth) {
            const size_t columns = at_most(Tile::block, m - first), depth = at_most(Tile::depth, k - p);
            const size_t panel = Tile::columns * padded(depth, Tile::step);
            for (size_t j = 0; j < columns; j += Tile::columns)
                Tile::pack_b({b.at(p, first + j), b.row, b.column}, depth, at_most(Tile::columns, columns - j),
                             b_panels + j / Tile::columns * panel);
            multiply_block({a.at(0, p), a.row, a.column}, n, depth, columns, a_panel, b_panels, out + first, m);
        }
    free(panels);
    return true;
}

}  // namespace
