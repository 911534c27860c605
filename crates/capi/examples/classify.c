/* Classifies a raw picture: height x width x 3 bytes, red, green, blue, of the network's input size.
 *
 *     bash crates/capi/install ~/dsconv
 *     export PKG_CONFIG_PATH=~/dsconv/lib/pkgconfig LD_LIBRARY_PATH=~/dsconv/lib
 *     cc crates/capi/examples/classify.c $(pkg-config --cflags --libs dsconv) -o classify
 *     ./classify network.dsc picture.rgb
 */
#include <dsconv.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s NETWORK.dsc PICTURE.rgb (dsconv %s)\n", argv[0], dsconv_version());
        return 2;
    }
    dsconv_model *model = dsconv_model_load(argv[1]);
    dsconv_session *session = dsconv_session_new(model, 1);
    if (!session) {
        fprintf(stderr, "%s\n", dsconv_last_error());
        return 1;
    }
    size_t shape[3], outputs = dsconv_model_outputs(model);
    dsconv_model_input(model, shape);
    size_t size = shape[1] * shape[2] * 3;
    uint8_t *picture = malloc(size);
    float *logits = malloc(outputs * sizeof *logits);
    FILE *file = fopen(argv[2], "rb");
    if (!file || !picture || !logits || fread(picture, 1, size, file) != size) {
        fprintf(stderr, "%s: not %zu bytes\n", argv[2], size);
        return 1;
    }
    fclose(file);
    if (dsconv_session_run_rgb(session, picture, 1, logits) != 0) {
        fprintf(stderr, "%s\n", dsconv_last_error());
        return 1;
    }
    size_t best = 0;
    for (size_t i = 1; i < outputs; i++)
        if (logits[i] > logits[best]) best = i;
    const char *name = dsconv_model_class(model, best);
    printf("%zu %s %.9g\n", best, name ? name : "-", logits[best]);
    free(picture);
    free(logits);
    dsconv_session_free(session);
    dsconv_model_free(model);
    return 0;
}
