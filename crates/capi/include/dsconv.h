/* dsconv: runs the networks that dsconv writes: .dsc files and safetensors, quantized ones in integers, and safetensors that
 * hold floats in floats. The same file gives the same bits on every CPU.
 *
 *     dsconv_model *model = dsconv_model_load("resnet50.dsc");
 *     dsconv_session *session = dsconv_session_new(model, 1);
 *     if (!session || dsconv_session_run(session, image, 1, logits) != 0) puts(dsconv_last_error());
 *     dsconv_session_free(session);
 *     dsconv_model_free(model);
 *
 * A function that fails returns NULL, or a number other than 0; dsconv_last_error() then says why. A null pointer in
 * place of a model or session is such a failure and no crash, so that only the last call of a chain need be checked.
 *
 * No file aborts the program or takes much more memory than its size justifies. A file that asks for more than half a
 * gibibyte of values and 64 bytes for each of its parameters, or for runs of minutes, is an error, and so is a value inside
 * the network that is NaN or infinite.
 *
 * Models may be shared between threads. A session is used by one thread at a time; make one for each thread. A model and
 * its sessions may be freed in any order.
 */
#ifndef DSCONV_H
#define DSCONV_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A network that is ready to run. */
typedef struct dsconv_model dsconv_model;
/* The memory and the threads to run a network. */
typedef struct dsconv_session dsconv_session;

/* Returns the version of the library, such as "0.1.0". Before 1.0, versions with another second number may have other
 * functions; the shared library is named after both numbers, so that no program loads one that it was not made for. */
const char *dsconv_version(void);

/* Returns the reason of this thread's last failed call, or "" before any. It is valid until this thread's next call. A model
 * or session that is NULL is explained by the call that returned it, if no call failed and none made another in between. */
const char *dsconv_last_error(void);

/* Loads a .dsc file, or safetensors that dsconv wrote, quantized or floats; which it is, the content tells. Returns NULL if
 * that fails. */
dsconv_model *dsconv_model_load(const char *path);
/* Loads the content of a file, which may be freed afterwards. Returns NULL if that fails. */
dsconv_model *dsconv_model_from_bytes(const void *data, size_t size);
/* Frees a model. NULL is ignored. */
void dsconv_model_free(dsconv_model *model);

/* Writes the shape of an input image: channels, height, width, or zeros for NULL. */
void dsconv_model_input(const dsconv_model *model, size_t shape[3]);
/* Returns the number of logits of an image, or 0 for NULL. */
size_t dsconv_model_outputs(const dsconv_model *model);
/* Returns the name of a class, or NULL where it has none. It is valid as long as the model. */
const char *dsconv_model_class(const dsconv_model *model, size_t index);

/* Makes a session that runs a model with `threads` threads, 0 to 1024. Returns NULL if there is not enough memory or if the
 * threads cannot be started. A process that is forked can go on with the session: it starts threads of its own. */
dsconv_session *dsconv_session_new(const dsconv_model *model, size_t threads);
/* Frees a session. NULL is ignored. */
void dsconv_session_free(dsconv_session *session);

/* Runs `count` images, [count, channels, height, width] floats that are normalised as the network was trained, and writes
 * [count, outputs] logits. Returns 0, or 1 if it fails. */
int dsconv_session_run(dsconv_session *session, const float *images, size_t count, float *logits);
/* Runs `count` decoded images of the input's size, [count, height, width, 3] bytes of red, green and blue, or
 * [count, height, width, 1] bytes of grey for a network of one channel, and normalises them as the file says. Returns 0, or
 * 1 if it fails. */
int dsconv_session_run_rgb(dsconv_session *session, const uint8_t *images, size_t count, float *logits);

#ifdef __cplusplus
}
#endif

#endif
