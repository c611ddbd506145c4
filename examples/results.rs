//! Tasks whose value somebody wants: `spawn`, `join`, and `join_timeout` for those who cannot wait for ever.
//!
//! Run it with `cargo run --example results`.

use inflight::{Handle, Manager, TaskError};
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let manager: Manager<&str> = Manager::new();

    let primes = manager.spawn("primes", |_cx| Ok((2..20_000_u32).filter(|n| is_prime(*n)).count()))?;
    println!("there are {} primes below 20,000", primes.join()?);

    let broken = manager.spawn("parse", |_cx| Ok("tea".parse::<u32>()?))?;
    match broken.join() {
        Err(TaskError::Failed(error)) => println!("parse: {error}"),
        other => println!("parse: {other:?}"),
    }

    let slow = manager.spawn("report", |cx| {
        cx.sleep(Duration::from_millis(200))?;
        Ok("42 pages")
    })?;
    println!("report: {}", patiently(slow)?);

    let endless = manager.spawn("endless", |cx| Ok(cx.sleep(Duration::MAX)?))?;
    if let Err(handle) = endless.join_timeout(Duration::from_millis(50)) {
        println!("endless: no answer within 50 ms, so it is cancelled");
        handle.cancel();
        println!("endless: {:?}", handle.join());
    }
    Ok(())
}

/// Asks again and again, and does something else in between.
fn patiently<T>(mut handle: Handle<T>) -> Result<T, TaskError> {
    loop {
        handle = match handle.join_timeout(Duration::from_millis(50)) {
            Ok(result) => return result,
            Err(handle) => {
                println!("not yet");
                handle
            }
        };
    }
}

fn is_prime(n: u32) -> bool {
    (2..).take_while(|d| d * d <= n).all(|d| n % d != 0)
}
