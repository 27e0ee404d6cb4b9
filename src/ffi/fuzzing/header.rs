//! What the header documents: the errnos that a call may answer with, read from its comments.

use std::collections::{HashMap, HashSet};

use once_cell::sync::OnceCell;

const HEADER: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/include/io_engine.h"));

type Documented = HashMap<&'static str, HashSet<&'static str>>;

/// Whether the comment of the call lists the errno.
pub(super) fn documents(call: &str, errno: i32) -> bool {
    static DOCUMENTED: OnceCell<Documented> = OnceCell::new();
    let documented = DOCUMENTED.get_or_init(read);
    let text = super::super::library::name_of(errno).unwrap_or_default();
    documented.get(call).is_some_and(|errnos| errnos.contains(text))
}

/// A line of a list is " * - `-EINVAL`, `-EBUSY`: the cause"; the comment is followed by the prototype.
fn read() -> Documented {
    let mut documented = Documented::new();
    let mut errnos = HashSet::new();
    for line in HEADER.lines() {
        if line.starts_with("/**") {
            errnos.clear();
        } else if let Some(list) = line.strip_prefix(" * - `-") {
            let list = list.split("`:").next().unwrap_or_default();
            errnos.extend(list.split("`, `-"));
        } else if let Some((call, _)) = line.split_once('(').filter(|_| !line.starts_with(' ')) {
            let call = call.rsplit([' ', '*']).next().unwrap_or_default();
            documented.insert(call, std::mem::take(&mut errnos));
        }
    }
    documented
}

#[test]
fn errnos_are_found_in_the_header() {
    assert!(documents("ioe_event_free", libc::EBUSY));
    assert!(!documents("ioe_event_free", libc::EINVAL));
    assert!(documents("ioe_try_submit", libc::ESHUTDOWN));
    assert!(documents("ioe_submit_wait", libc::EDEADLK));
    assert!(!documents("ioe_submit_wait_batch", libc::EAGAIN));
    assert!(!documents("ioe_no_such_call", libc::EINVAL));
}
