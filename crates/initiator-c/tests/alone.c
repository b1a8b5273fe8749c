/* What needs no target: nothing is looked at without a client; and how large the header's structures are, which it says one a line. */
#include "dolmen_initiator.h"

#include <stdio.h>
#include <stdlib.h>

#define CHECK(what)                                                          \
    do {                                                                     \
        if (!(what)) {                                                       \
            fprintf(stderr, "line %d: %s\n", __LINE__, #what);               \
            exit(1);                                                         \
        }                                                                    \
    } while (0)

/* Without a client nothing is looked at. */
static void nothing(void)
{
    dolmen_client *none = NULL;
    CHECK(dolmen_notices(none, NULL, 0) == DOLMEN_INVALID && dolmen_discovery_changes(none, NULL, 0) == DOLMEN_INVALID);
    CHECK(dolmen_discover(none, NULL, 0, NULL, 0) == DOLMEN_INVALID);
    CHECK(dolmen_follow_discovery(none, NULL) == DOLMEN_INVALID && dolmen_end_discovery(none) == DOLMEN_INVALID);
    CHECK(dolmen_discovery_settled(none) == DOLMEN_INVALID);
    CHECK(dolmen_discovered_records(none, NULL, 0) == DOLMEN_INVALID);
    CHECK(dolmen_follow_namespaces(none, 0) == DOLMEN_INVALID);
    CHECK(dolmen_known_namespaces(none, 0, NULL, 0) == DOLMEN_INVALID);
    CHECK(dolmen_identity(none, 0, NULL) == DOLMEN_INVALID && dolmen_paths(none, 0, NULL, 0) == DOLMEN_INVALID);
    CHECK(dolmen_add_path(none, 0, NULL, 0) == DOLMEN_INVALID && dolmen_remove_path(none, 0, 0) == DOLMEN_INVALID);
    CHECK(dolmen_use_queue(none, 0, 0) == DOLMEN_INVALID && dolmen_path_ana(none, 0, 0, NULL, 0) == DOLMEN_INVALID);
    CHECK(dolmen_statistics(none, 0, 0, 0, 0, NULL) == DOLMEN_INVALID);
    CHECK(dolmen_percentiles(none, 0, 0, 0, 0, NULL, NULL, 0) == DOLMEN_INVALID);
    CHECK(dolmen_buckets(none, 0, 0, 0, 0, NULL, 0) == DOLMEN_INVALID);
    CHECK(dolmen_reservations(none, 0, 0, 0, NULL, NULL, 0) == DOLMEN_INVALID);
    CHECK(dolmen_reservation_read(none, NULL, NULL, NULL, 0) == DOLMEN_INVALID);
    CHECK(dolmen_reservation_report(none, 0, 0, 0, 0, NULL) == DOLMEN_INVALID);
    CHECK(dolmen_reservation_register(none, 0, 0, 0, 0, 9, 0, 0, 0, 0) == DOLMEN_INVALID);
    CHECK(dolmen_reservation_acquire(none, 0, 0, 0, 0, 0, 1, 0, 0) == DOLMEN_INVALID);
    CHECK(dolmen_reservation_release(none, 0, 0, 0, 0, 0, 1, 0) == DOLMEN_INVALID);
    CHECK(dolmen_verify(none, 0, 0, 0, 0, 0, 1) == DOLMEN_INVALID);
    CHECK(dolmen_write_uncorrectable(none, 0, 0, 0, 0, 0, 1) == DOLMEN_INVALID);
    CHECK(dolmen_identify(none, 0, 0, 0, 0, 0, NULL) == DOLMEN_INVALID);
    CHECK(dolmen_get_log(none, 0, 0, 0, 0, 0, 0, 0, NULL) == DOLMEN_INVALID);
    CHECK(dolmen_admin_command(none, 0, 0, 0, NULL, 0, NULL, 0) == DOLMEN_INVALID);
    CHECK(dolmen_io_command(none, 0, 0, 0, NULL, 0, NULL, 0) == DOLMEN_INVALID);
    dolmen_options_init_sized(NULL, 1000);
    dolmen_discovery_options_init_sized(NULL, 1000);
}

int main(void)
{
    size_t i;
    const size_t sizes[] = {
        sizeof(struct dolmen_options),     sizeof(struct dolmen_completion),        sizeof(struct dolmen_namespace),
        sizeof(struct dolmen_range),       sizeof(struct dolmen_identity),          sizeof(struct dolmen_known_namespace),
        sizeof(struct dolmen_notice),      sizeof(struct dolmen_discovery_options), sizeof(struct dolmen_discovered),
        sizeof(struct dolmen_change),      sizeof(struct dolmen_reservation),       sizeof(struct dolmen_registrant),
        sizeof(struct dolmen_path),        sizeof(struct dolmen_ana),               sizeof(struct dolmen_statistics),
        sizeof(struct dolmen_bucket),
    };
    nothing();
    for (i = 0; i < sizeof sizes / sizeof *sizes; i++)
        printf("%zu\n", sizes[i]);
    return 0;
}
