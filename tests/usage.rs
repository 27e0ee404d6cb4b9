//! The usage program of the system's public documentation, with its imports and its buffer type
//! changed, and nothing else.
#![allow(clippy::let_unit_value)] // the program is as it was published

use crossfire::oneshot;
use io_engine::callback_worker::IOWorkers;
use io_engine::tasks::{ClosureCb, IOAction, IOEvent};
use io_engine::Buffer;
use io_engine::{Driver, IOContext};
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;

#[test]
fn the_usage_program_works() {
    let path = std::env::temp_dir().join(format!("test_io_engine.{}", std::process::id()));
    // 1. Prepare file
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    let fd = file.as_raw_fd();

    // 2. Create channels for submission
    // This channel is used to send events into the engine's submission queue
    let (tx, rx) = crossfire::mpsc::bounded_blocking(128);

    // 3. Create IOContext (io_uring)
    // worker_num=1, depth=16
    // This spawns the necessary driver threads.
    let _ctx = IOContext::<ClosureCb, _>::new(16, rx, &IOWorkers::new(1), Driver::Uring)
        .expect("Failed to create context");

    // 4. Submit a Write
    let mut buffer = Buffer::aligned(4096).unwrap();
    buffer[0] = 65; // 'A'
    let mut event = IOEvent::new(fd, buffer, IOAction::Write, 0);

    // Create oneshot for this event's completion
    let (done_tx, done_rx) = oneshot::oneshot();
    event.set_callback(ClosureCb(Box::new(move |event| {
        let _ = done_tx.send(event);
    })));

    // Send to engine
    tx.send(event).expect("submit");

    // 5. Wait for completion
    let event = done_rx.recv().unwrap();
    assert!(event.is_done());
    event.get_write_result().expect("Write failed");

    // 6. Submit a Read
    let buffer = Buffer::aligned(4096).unwrap();
    let mut event = IOEvent::new(fd, buffer, IOAction::Read, 0);

    let (done_tx, done_rx) = oneshot::oneshot();
    event.set_callback(ClosureCb(Box::new(move |event| {
        let _ = done_tx.send(event);
    })));

    tx.send(event).expect("submit");

    let mut event = done_rx.recv().unwrap();
    let read_buf = event.get_read_result().expect("Read failed");
    assert_eq!(read_buf.len(), 4096);
    assert_eq!(read_buf[0], 65);
    std::fs::remove_file(path).unwrap();
}
