/* What the example scorers share: a model of two features, the sum of a row plus `more`. Free of the engine's headers,
 * because scorers of older versions were compiled against other ones. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

static int answer(const float *rows, size_t n, size_t stride, double more, double *out) {
    for (size_t r = 0; r < n; ++r) out[r] = (double)rows[r * stride] + (double)rows[r * stride + 1] + more;
    return 0;
}
static void retain(void *ctx) { (void)ctx; }
static void release(void *ctx) { (void)ctx; }
