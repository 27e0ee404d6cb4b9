//! The Rust interface on real files: callbacks of every kind, shared workers, both kinds of
//! context, and their ends.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{channel, Sender};
use std::sync::Arc;

use io_engine::callback_worker::IOWorkers;
use io_engine::merge::{MergeBuffer, MergeSubmitter};
use io_engine::tasks::{ClosureCb, IOAction, IOCallback, IOEvent};
use io_engine::{Buffer, Config, Driver, IOContext};

/// A file without a name.
fn temp_file() -> File {
    let path = std::env::temp_dir().join(format!(
        "io_engine.{}.{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let options = File::options().read(true).write(true).create(true).truncate(true).open(&path);
    std::fs::remove_file(&path).unwrap();
    options.unwrap()
}

fn filled(len: usize, byte: u8) -> Buffer {
    let mut buffer = Buffer::aligned(len).unwrap();
    buffer.fill(byte);
    buffer
}

/// State without an allocation: a struct of the user's.
struct Report {
    id: usize,
    to: Sender<(usize, IOEvent<Report>)>,
}

impl IOCallback for Report {
    fn call(self, event: IOEvent<Self>) {
        self.to.clone().send((self.id, event)).unwrap();
    }
}

#[test]
fn a_struct_is_a_callback() {
    let file = temp_file();
    let (to, reports) = channel();
    let (events, receiver) = crossfire::mpsc::bounded_blocking(4);
    let context = IOContext::new(2, receiver, &IOWorkers::new(1), Driver::Uring).unwrap();
    for id in 0..20 {
        let mut event =
            IOEvent::new(file.as_raw_fd(), filled(512, id as u8), IOAction::Write, 512 * id as u64);
        event.set_callback(Report { id, to: to.clone() });
        events.send(event).unwrap();
    }
    let mut seen: Vec<usize> = (0..20)
        .map(|_| {
            let (id, event) = reports.recv().unwrap();
            assert_eq!(event.get_write_result().unwrap(), 512);
            id
        })
        .collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..20));
    drop(context);
    let mut text = Vec::new();
    (&file).seek(SeekFrom::Start(0)).unwrap();
    (&file).read_to_end(&mut text).unwrap();
    assert!(text.chunks(512).zip(0u8..).all(|(block, id)| block.iter().all(|byte| *byte == id)));
}

/// Several kinds of callback in one context: an enum of the user's.
enum Kind {
    Count(Arc<AtomicUsize>),
    Send(Sender<i64>),
}

impl IOCallback for Kind {
    fn call(self, event: IOEvent<Self>) {
        match self {
            Kind::Count(counter) => drop(counter.fetch_add(event.get_size() as usize, SeqCst)),
            Kind::Send(sender) => sender.send(event.result()).unwrap(),
        }
    }
}

#[test]
fn an_enum_is_a_callback_and_workers_serve_several_contexts() {
    let file = temp_file();
    let fd = file.as_raw_fd();
    let workers = IOWorkers::new(2);
    let counter = Arc::new(AtomicUsize::new(0));
    let (sender, results) = channel();
    let contexts: Vec<_> =
        (0..3).map(|_| IOContext::with_config(Config::default(), &workers).unwrap()).collect();
    for (context, number) in contexts.iter().zip(0..) {
        for kind in [Kind::Count(counter.clone()), Kind::Send(sender.clone())] {
            let mut event = IOEvent::new(fd, filled(100, 1), IOAction::Write, number * 100);
            event.set_callback(kind);
            assert!(context.submit(event).is_ok());
        }
    }
    drop(workers);
    for context in &contexts {
        context.drain(-1).unwrap();
    }
    assert_eq!(counter.load(SeqCst), 300);
    assert_eq!(results.try_iter().collect::<Vec<_>>(), [100, 100, 100]);
}

#[test]
fn dropping_the_sender_ends_the_context_cleanly() {
    for threads in [0, 1] {
        let file = temp_file();
        let (events, receiver) = crossfire::mpsc::bounded_blocking(1000);
        let counter = Arc::new(AtomicUsize::new(0));
        let workers = IOWorkers::<ClosureCb>::new(threads);
        let context = IOContext::new(8, receiver, &workers, Driver::Auto).unwrap();
        for number in 0..1000 {
            let mut event =
                IOEvent::new(file.as_raw_fd(), filled(8, 7), IOAction::Write, number * 8);
            let counter = counter.clone();
            event.set_callback(ClosureCb(Box::new(move |event| {
                assert_eq!(event.result(), 8);
                counter.fetch_add(1, SeqCst);
            })));
            events.send(event).unwrap();
        }
        drop(events);
        drop(context);
        assert_eq!(counter.load(SeqCst), 1000, "{threads} workers");
    }
}

#[test]
fn a_slow_callback_holds_a_foreign_channel_back() {
    let file = temp_file();
    let (release, held) = crossfire::mpmc::bounded_blocking::<()>(5000);
    let (events, receiver) = crossfire::mpsc::bounded_blocking(1);
    let context = IOContext::new(4, receiver, &IOWorkers::new(1), Driver::Auto).unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let fd = file.as_raw_fd();
    let submitter = std::thread::spawn({
        let sent = sent.clone();
        move || {
            for _ in 0..4000 {
                let held = held.clone();
                let mut event = IOEvent::new(fd, filled(8, 7), IOAction::Write, 0);
                event.set_callback(ClosureCb(Box::new(move |_| held.recv().unwrap())));
                events.send(event).unwrap();
                sent.fetch_add(1, SeqCst);
            }
        }
    });
    // One callback waits, 1024 are accepted, one is in the channel and one in the submitter's hand.
    while context.stats().in_flight < 1024 {
        std::thread::yield_now();
    }
    assert_eq!(context.stats().in_flight, 1024);
    assert!(sent.load(SeqCst) <= 1024 + 3);
    for _ in 0..4000 {
        release.send(()).unwrap();
    }
    submitter.join().unwrap();
    drop(context);
}

#[test]
fn a_full_foreign_channel_is_emptied_at_the_end() {
    let file = temp_file();
    let (events, receiver) = crossfire::mpsc::bounded_blocking(3000);
    let counter = Arc::new(AtomicUsize::new(0));
    let (release, held) = crossfire::mpmc::bounded_blocking::<()>(1);
    let context = IOContext::new(4, receiver, &IOWorkers::new(1), Driver::Auto).unwrap();
    for number in 0..3000 {
        let (counter, held) = (counter.clone(), held.clone());
        let mut event = IOEvent::new(file.as_raw_fd(), filled(8, 7), IOAction::Write, 0);
        event.set_callback(ClosureCb(Box::new(move |_| {
            if number == 0 {
                held.recv().unwrap();
            }
            counter.fetch_add(1, SeqCst);
        })));
        events.send(event).unwrap();
    }
    // The reactor has no room, and sleeps, when the context begins to end.
    while context.stats().in_flight < 1024 {
        std::thread::yield_now();
    }
    std::thread::scope(|scope| {
        scope.spawn(move || drop(context));
        release.send(()).unwrap();
    });
    assert_eq!(counter.load(SeqCst), 3000);
    assert!(events.send(IOEvent::new(0, filled(8, 7), IOAction::Write, 0)).is_err());
}

#[test]
fn an_event_without_its_buffer_is_refused_each_time() {
    let file = temp_file();
    (&file).write_all(b"short").unwrap();
    let (events, receiver) = crossfire::mpsc::bounded_blocking(4);
    let context = IOContext::new(4, receiver, &IOWorkers::new(1), Driver::Auto).unwrap();
    let (sender, done) = channel();
    let run = |mut event: IOEvent<ClosureCb>| {
        let sender = sender.clone();
        event.set_callback(ClosureCb(Box::new(move |event| sender.send(event).unwrap())));
        events.send(event).unwrap();
        done.recv().unwrap()
    };
    let mut event = run(IOEvent::new(file.as_raw_fd(), filled(4096, 9), IOAction::Read, 0));
    let buffer = event.get_read_result().unwrap();
    assert_eq!(*buffer, *b"short");
    (&file).write_all(b", and longer").unwrap();
    for _ in 0..3 {
        event = run(event);
        assert_eq!(event.result(), -i64::from(libc::EINVAL));
    }
    drop(context);
}

#[test]
fn an_incomplete_event_goes_on_where_it_stopped() {
    let file = temp_file();
    (&file).write_all(b"first").unwrap();
    let workers = IOWorkers::new(1);
    let context = IOContext::with_config(Config::default(), &workers).unwrap();
    let (sender, events) = channel();
    let submit = |mut event: IOEvent<ClosureCb>| {
        let sender = sender.clone();
        event.set_callback(ClosureCb(Box::new(move |event| sender.send(event).unwrap())));
        context.submit(event).map_err(|(_, error)| error).unwrap();
        events.recv().unwrap()
    };
    let buffer = Buffer::aligned(12).unwrap();
    let event = submit(IOEvent::new(file.as_raw_fd(), buffer, IOAction::Read, 0));
    assert_eq!((event.result(), event.transferred()), (5, 5));
    (&file).write_all(b"-second").unwrap();
    let mut event = submit(event);
    assert_eq!((event.result(), event.transferred()), (12, 12));
    event.set_callback(ClosureCb(Box::new(|_| unreachable!())));
    let (mut event, error) = context.submit(event).expect_err("a whole event is refused");
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    assert_eq!(*event.get_read_result().unwrap(), *b"first-second");
}

#[test]
fn a_polled_context_runs_callbacks_in_poll_and_outlives_its_owner() {
    let file = temp_file();
    file.write_all_at(&[3; 4096], 0).unwrap();
    let config = Config { polled: true, ..Config::default() };
    let context = Arc::new(IOContext::with_config(config, &IOWorkers::new(0)).unwrap());
    let counter = Arc::new(AtomicUsize::new(0));
    let submit = {
        let (context, counter, fd) = (context.clone(), counter.clone(), file.as_raw_fd());
        move || {
            let owner = std::thread::current().id();
            for _ in 0..10 {
                let buffer = Buffer::aligned(4096).unwrap();
                let mut event = IOEvent::new(fd, buffer, IOAction::Read, 0);
                let counter = counter.clone();
                event.set_callback(ClosureCb(Box::new(move |mut event| {
                    assert!(event.get_read_result().unwrap().iter().all(|byte| *byte == 3));
                    let own = usize::from(std::thread::current().id() == owner);
                    counter.fetch_add(1 + 100 * own, SeqCst);
                })));
                assert!(context.submit(event).is_ok());
            }
            assert_eq!(context.poll(4, -1).unwrap().min(4), 4);
        }
    };
    std::thread::spawn(submit).join().unwrap();
    let refused = context.poll(1, 0).expect_err("only the owner polls");
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    drop(context);
    let counted = counter.load(SeqCst);
    assert_eq!(counted % 100, 10, "every callback ran once");
    assert!(counted / 100 >= 4, "the owner's own ran inside its poll");
}

#[test]
fn a_panicking_callback_stops_nobody() {
    const ON_PURPOSE: &str = "a panic on purpose";
    // Said by nobody, so that in the log of a test run every panic is one to look at.
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref::<String>().is_none_or(|text| text != ON_PURPOSE) {
            loud(panic);
        }
    }));
    let file = temp_file();
    for threads in [0, 1] {
        let workers = IOWorkers::new(threads);
        let context = IOContext::with_config(Config::default(), &workers).unwrap();
        let counter = Arc::new(AtomicUsize::new(0));
        for number in 0..10 {
            let counter = counter.clone();
            let mut event = IOEvent::new(file.as_raw_fd(), filled(8, 7), IOAction::Write, 0);
            event.set_callback(ClosureCb(Box::new(move |_| {
                counter.fetch_add(1, SeqCst);
                assert!(number % 2 == 0, "{ON_PURPOSE}");
            })));
            assert!(context.submit(event).is_ok());
        }
        context.drain(-1).unwrap();
        assert_eq!(counter.load(SeqCst), 10, "{threads} workers");
    }
}

/// An event of the file that reports where it ended up.
fn reporting(file: &File, id: usize, to: &Sender<(usize, IOEvent<Report>)>) -> IOEvent<Report> {
    let buffer = filled(512, id as u8);
    let mut event = IOEvent::new(file.as_raw_fd(), buffer, IOAction::Write, 512 * id as u64);
    event.set_callback(Report { id, to: to.clone() });
    event
}

/// What each of `count` events moved, and that the file has it.
fn all_written(
    file: &File,
    reports: &std::sync::mpsc::Receiver<(usize, IOEvent<Report>)>,
    count: usize,
) {
    let mut seen = vec![0; count];
    for _ in 0..count {
        let (id, event) = reports.recv().unwrap();
        assert_eq!(event.get_write_result().unwrap(), 512);
        seen[id] += 1;
    }
    assert_eq!(seen, vec![1; count], "one callback each");
    for id in 0..count {
        let mut block = [0; 512];
        file.read_exact_at(&mut block, 512 * id as u64).unwrap();
        assert_eq!(block, [id as u8; 512]);
    }
}

#[test]
fn a_merge_submitter_hands_over_neighbours_as_one() {
    const COUNT: usize = 100;
    let file = temp_file();
    let (to, reports) = channel();
    let context = IOContext::with_config(Config::default(), &IOWorkers::new(1)).unwrap();
    let mut submitter = MergeSubmitter::new(file.as_raw_fd(), &context, 8 * 512, IOAction::Write);
    for id in 0..COUNT {
        submitter.add_event(reporting(&file, id, &to)).unwrap();
    }
    // Not one of its own.
    let mut stranger = IOEvent::new(file.as_raw_fd(), filled(512, 0), IOAction::Read, 0);
    stranger.set_callback(Report { id: 0, to: to.clone() });
    let (_, error) = submitter.add_event(stranger).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    drop(submitter);
    all_written(&file, &reports, COUNT);
    let stats = context.stats();
    assert_eq!(stats.operations, COUNT.div_ceil(8) as u64);
    assert_eq!(stats.merged + stats.operations, COUNT as u64);
}

#[test]
fn a_merge_submitter_serves_a_channel() {
    const COUNT: usize = 100;
    let file = temp_file();
    let (to, reports) = channel();
    let (events, receiver) = crossfire::mpsc::bounded_blocking(4);
    let context = IOContext::new(2, receiver, &IOWorkers::new(0), Driver::Auto).unwrap();
    let mut submitter = MergeSubmitter::new(file.as_raw_fd(), events, 8 * 512, IOAction::Write);
    for id in 0..COUNT {
        submitter.add_event(reporting(&file, id, &to)).unwrap();
    }
    submitter.flush().unwrap();
    all_written(&file, &reports, COUNT);
    // Ends the context as well.
    drop(submitter);
    let stats = context.stats();
    assert_eq!(stats.accepted, COUNT as u64);
    assert_eq!(stats.operations, COUNT.div_ceil(8) as u64);
}

#[test]
fn joined_events_that_are_refused_come_back_together() {
    let file = temp_file();
    let (to, reports) = channel();
    let config = Config { queue_size: 1, polled: true, ..Config::default() };
    let context = IOContext::with_config(config, &IOWorkers::new(0)).unwrap();
    assert!(context.submit(reporting(&file, 3, &to)).is_ok());
    let mut submitter = MergeSubmitter::new(file.as_raw_fd(), &context, 4096, IOAction::Write);
    for id in [1, 2, 0] {
        submitter.add_event(reporting(&file, id, &to)).unwrap();
    }
    let error = submitter.flush().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EAGAIN), "the queue is full");
    assert_eq!(context.stats().accepted, 1);
    context.poll(1, -1).unwrap();
    submitter.flush().unwrap();
    context.drain(-1).unwrap();
    all_written(&file, &reports, 4);
    assert_eq!(context.stats().operations, 2);
}

#[test]
fn a_merge_buffer_holds_as_many_as_the_kernel_takes() {
    let file = temp_file();
    let mut gathered = MergeBuffer::<ClosureCb>::new(1 << 20);
    // Each in memory of its own.
    let event = |at| IOEvent::new(file.as_raw_fd(), filled(1, 0), IOAction::Write, at);
    for at in 0..1024 {
        assert!(!gathered.is_full());
        gathered.push_event(event(at)).unwrap();
    }
    assert!(gathered.is_full());
    assert!(gathered.push_event(event(1024)).is_err());
    assert_eq!(gathered.len(), 1024);
    // Nobody takes them.
    drop(gathered.flush());
    assert!(gathered.is_empty());
}

/// What was joined may be joined further, with what is adjacent to the whole of it.
#[test]
fn joined_events_count_whole_where_they_are_gathered_again() {
    let file = temp_file();
    let (to, reports) = channel();
    let context = IOContext::with_config(Config::default(), &IOWorkers::new(1)).unwrap();
    let mut first = MergeBuffer::new(4096);
    first.push_event(reporting(&file, 0, &to)).unwrap();
    first.push_event(reporting(&file, 1, &to)).unwrap();
    let mut second = MergeBuffer::new(4096);
    second.push_event(first.flush().unwrap()).unwrap();
    let overlapping = second.push_event(reporting(&file, 1, &to)).unwrap_err();
    assert_eq!(overlapping.offset(), 512);
    second.push_event(reporting(&file, 2, &to)).unwrap();
    assert_eq!(second.len(), 3);
    assert!(context.submit(second.flush().unwrap()).is_ok());
    all_written(&file, &reports, 3);
    assert_eq!(context.stats().operations, 1);
}

#[test]
fn a_merge_submitter_refuses_what_cannot_be_submitted() {
    let file = temp_file();
    let (to, reports) = channel();
    let context = IOContext::with_config(Config::default(), &IOWorkers::new(1)).unwrap();
    let mut submitter = MergeSubmitter::new(file.as_raw_fd(), &context, 4096, IOAction::Write);
    submitter.add_event(reporting(&file, 0, &to)).unwrap();
    let bare = IOEvent::new(file.as_raw_fd(), filled(512, 1), IOAction::Write, 512);
    let (bare, error) = submitter.add_event(bare).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "it has no callback");
    let mut joined = MergeBuffer::new(4096);
    joined.push_event(reporting(&file, 1, &to)).unwrap();
    joined.push_event(IOEvent::new(bare.fd(), filled(512, 2), IOAction::Write, 1024)).unwrap();
    let (_, error) = context.submit(joined.flush().unwrap()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "one of them has none");
    submitter.flush().unwrap();
    all_written(&file, &reports, 1);
}

/// Joined events beyond the limit go alone, and are all there after a refusal too.
#[test]
fn a_merge_submitter_loses_nothing_of_what_is_refused() {
    let file = temp_file();
    let (to, reports) = channel();
    let config = Config { queue_size: 1, polled: true, ..Config::default() };
    let context = IOContext::with_config(config, &IOWorkers::new(0)).unwrap();
    assert!(context.submit(reporting(&file, 4, &to)).is_ok());
    let mut joined = MergeBuffer::new(4096);
    for id in 0..4 {
        joined.push_event(reporting(&file, id, &to)).unwrap();
    }
    let mut submitter = MergeSubmitter::new(file.as_raw_fd(), &context, 1024, IOAction::Write);
    submitter.add_event(joined.flush().unwrap()).unwrap();
    assert!(submitter.flush().is_err(), "the queue is full");
    context.poll(1, -1).unwrap();
    submitter.flush().unwrap();
    context.drain(-1).unwrap();
    all_written(&file, &reports, 5);
}

#[test]
fn several_reactors_serve_one_context() {
    const THREADS: usize = 4;
    const EACH: usize = 100;
    let files: Vec<File> = (0..THREADS).map(|_| temp_file()).collect();
    let workers = IOWorkers::new(1);
    let config = Config { reactors: 3, queue_size: 8, ..Config::default() };
    let context = IOContext::<ClosureCb>::with_config(config, &workers).unwrap();
    let whole = Arc::new(AtomicUsize::new(0));
    for action in [IOAction::Write, IOAction::Read] {
        std::thread::scope(|scope| {
            for file in &files {
                let submit = |number| {
                    let buffer = filled(512, number as u8);
                    let mut event =
                        IOEvent::new(file.as_raw_fd(), buffer, action, 512 * number as u64);
                    let whole = whole.clone();
                    event.set_callback(ClosureCb(Box::new(move |event| {
                        whole.fetch_add(usize::from(event.result() == 512), SeqCst);
                    })));
                    context.submit(event).map_err(|(_, error)| error).unwrap();
                };
                scope.spawn(move || (0..EACH).for_each(submit));
            }
        });
        context.drain(-1).unwrap();
    }
    assert_eq!(whole.load(SeqCst), 2 * THREADS * EACH);
    let stats = context.stats();
    assert_eq!((stats.accepted, stats.in_flight), (2 * (THREADS * EACH) as u64, 0));
    drop(context);
    let refused = |config| IOContext::<ClosureCb>::with_config(config, &workers).is_err();
    assert!(refused(Config { reactors: 65, ..Config::default() }));
    assert!(refused(Config { reactors: 2, polled: true, ..Config::default() }));
}
