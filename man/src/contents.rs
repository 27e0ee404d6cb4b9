//! Which pages there are. What they say is the header's.

/// A page of section 3: it has the name of its first call, the others and the types have aliases.
pub struct Page {
    pub calls: &'static [&'static str],
    /// Types and macros that are defined on it.
    pub types: &'static [&'static str],
}

const fn page(calls: &'static [&'static str], types: &'static [&'static str]) -> Page {
    Page { calls, types }
}

/// All pages, in groups that belong together.
pub const CONTENTS: &[(&str, &[Page])] = &[
    (
        "Library",
        &[
            page(
                &["ioe_version"],
                &["IOE_VERSION_MAJOR", "IOE_VERSION_MINOR", "IOE_VERSION_PATCH"],
            ),
            page(&["ioe_strerror"], &[]),
            page(&["ioe_probe", "ioe_driver_name"], &["ioe_driver"]),
            page(&["ioe_set_log"], &["ioe_log_fn", "ioe_log_level"]),
        ],
    ),
    (
        "Contexts",
        &[
            page(&["ioe_config_init"], &["ioe_config", "ioe_flag"]),
            page(&["ioe_context_new"], &["ioe_context"]),
            page(&["ioe_context_free"], &[]),
            page(&["ioe_context_info"], &["ioe_info"]),
            page(&["ioe_context_stats"], &["ioe_stats"]),
            page(&["ioe_drain"], &[]),
            page(&["ioe_workers_new", "ioe_workers_free"], &["ioe_workers"]),
        ],
    ),
    ("Polling", &[page(&["ioe_poll"], &[]), page(&["ioe_context_fd"], &[])]),
    (
        "Events",
        &[
            page(&["ioe_event_new", "ioe_event_free"], &["ioe_event"]),
            page(&["ioe_prep_read", "ioe_prep_write", "ioe_prep_readv", "ioe_prep_writev"], &[]),
            page(&["ioe_prep_fsync", "ioe_prep_fdatasync"], &[]),
            page(&["ioe_prep_fallocate"], &[]),
            page(&["ioe_prep_sync_range"], &[]),
            page(&["ioe_prep_truncate"], &[]),
            page(&["ioe_prep_advise"], &[]),
            page(&["ioe_event_set_callback"], &["ioe_callback"]),
            page(
                &["ioe_event_result", "ioe_event_transferred", "ioe_event_is_done"],
                &["IOE_PENDING"],
            ),
            page(
                &[
                    "ioe_event_fd",
                    "ioe_event_action",
                    "ioe_event_buffer",
                    "ioe_event_size",
                    "ioe_event_offset",
                    "ioe_event_arg",
                ],
                &["ioe_action"],
            ),
        ],
    ),
    (
        "Options of an event",
        &[
            page(&["ioe_event_set_flags"], &["ioe_event_flag"]),
            page(&["ioe_event_set_priority"], &[]),
            page(&["ioe_event_set_timeout"], &[]),
        ],
    ),
    (
        "Submission",
        &[
            page(&["ioe_submit", "ioe_try_submit"], &[]),
            page(&["ioe_submit_batch"], &[]),
            page(&["ioe_submit_wait"], &[]),
            page(&["ioe_submit_wait_batch"], &[]),
            page(&["ioe_cancel", "ioe_event_id"], &[]),
        ],
    ),
    (
        "Merging",
        &[
            page(&["ioe_merger_new", "ioe_merger_free"], &["ioe_merger"]),
            page(&["ioe_merger_add", "ioe_merger_flush"], &[]),
        ],
    ),
    ("Memory", &[page(&["ioe_buffer_alloc", "ioe_buffer_free"], &[])]),
];
