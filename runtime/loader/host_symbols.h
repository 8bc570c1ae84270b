/* What a loaded library may call of this program. */
#ifndef EDGEVIT_LOADER_HOST_SYMBOLS_H_
#define EDGEVIT_LOADER_HOST_SYMBOLS_H_

#ifdef __cplusplus
extern "C" {
#endif

/* Address of the function of that name, or NULL. */
void* edgevit_host_symbol(const char* name);

#ifdef __cplusplus
}
#endif

#endif /* EDGEVIT_LOADER_HOST_SYMBOLS_H_ */
