//! What a task that waits for its time costs. Alone in its process, whose memory is what it looks at.

#![allow(clippy::unwrap_used)]

mod support;

use inflight::{Manager, ManualClock, Task};
use support::{SEC, fused};

/// How much memory of this process is resident, where the system says so (Linux, in pages of 4 KiB).
fn resident() -> Option<usize> {
    let sizes = std::fs::read_to_string("/proc/self/statm").ok()?;
    sizes.split(' ').nth(1)?.parse::<usize>().ok().map(|pages| pages * 4096)
}

#[test]
fn a_delayed_task_costs_a_few_hundred_bytes() {
    const TASKS: usize = 50_000;
    let manager = fused(Manager::builder().max_threads(1).clock(&ManualClock::new()));
    let later = || Task::once(0_u64, |_| Ok(())).delay(SEC);
    manager.run_task(later()).unwrap();
    let before = resident();
    for _ in 0..TASKS {
        manager.run_task(later()).unwrap();
    }
    if let Some((before, after)) = before.zip(resident()) {
        let each = after.saturating_sub(before) / TASKS;
        assert!(each < 600, "it costs {each} bytes");
    }
    manager.cancel();
    manager.wait();
    assert_eq!(manager.stats().failed as usize, TASKS + 1);
}
