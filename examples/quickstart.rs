//! The README's example: work that nobody waits for, and a `main` that loses none of it.
//!
//! Run it with `cargo run --example quickstart`.

use inflight::{Grace, Manager};
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let manager: Manager<&str> = Manager::new();
    manager.on_task_added(|_cx, meta| println!("{meta}: accepted"));
    manager.on_task_succeeded(|cx, meta| println!("{meta}: done after {:?}", cx.running_for()));
    manager.on_task_failed(|_cx, meta, error| println!("{meta}: {error}"));

    manager.run("send-receipt", |_cx| {
        std::thread::sleep(Duration::from_millis(300)); // a mail server that takes its time
        Ok(())
    })?;
    manager.run("warm-cache", |_cx| {
        std::fs::read_to_string("no such file")?;
        Ok(())
    })?;
    manager.run("count-visitors", |_cx| panic!("off by one"))?;

    println!("main is done, and {} tasks are in flight", manager.len());
    // Without this line the drop of the manager would wait just as well, without a limit.
    manager.shutdown(Grace::drain(Duration::from_secs(25)))?;
    println!("{:?}", manager.stats());
    Ok(())
}
