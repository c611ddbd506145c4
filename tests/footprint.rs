//! What a task that waits for its time costs. Alone in its process, whose memory is what it looks at.

#![allow(clippy::unwrap_used)]

use inflight::{Manager, ManualClock, Task};
use std::time::Duration;

/// How much memory of this process is resident, where the system says so (Linux, in pages of 4 KiB).
fn resident() -> Option<usize> {
    let sizes = std::fs::read_to_string("/proc/self/statm").ok()?;
    sizes.split(' ').nth(1)?.parse::<usize>().ok().map(|pages| pages * 4096)
}

#[test]
fn a_delayed_task_costs_a_few_hundred_bytes() {
    const TASKS: usize = 50_000;
    let manager = Manager::builder().max_threads(1).clock(&ManualClock::new()).build().unwrap();
    let later = || Task::once(0_u64, |_| Ok(())).delay(Duration::from_secs(1));
    manager.run_task(later()).unwrap();
    let before = resident();
    for _ in 0..TASKS {
        manager.run_task(later()).unwrap();
    }
    if let Some((before, after)) = before.zip(resident()) {
        let each = after.saturating_sub(before) / TASKS;
        assert!(each < 1, "it costs {each} bytes");
    }
    manager.cancel();
    manager.wait();
    assert_eq!(manager.stats().failed as usize, TASKS + 1);
}
