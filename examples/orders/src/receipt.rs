//! The slow part of an order, for which no client waits.

use std::fmt::{self, Write};
use std::thread;
use std::time::Duration;

use inflight::{BoxError, Context};

use crate::orders::{Order, Simulate};
use crate::store::Store;

/// Why a receipt was not sent, apart from what the database may have against it.
#[derive(Debug)]
struct MailRefused;

impl fmt::Display for MailRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the mail server refused the receipt")
    }
}

impl std::error::Error for MailRefused {}

/// Writes the receipt, mails it, and stores it.
///
/// A drain lets all of it complete. A cancellation ends the wait for the mail server, before anything was sent;
/// what has been mailed is stored, cancelled or not.
pub(crate) fn issue(cx: &Context, order: &Order, store: &Store, mail: Duration) -> Result<(), BoxError> {
    cx.progress("writing the receipt");
    let text = write(order);

    cx.progress("waiting for the mail server");
    match order.simulate {
        None => cx.sleep(mail)?,
        Some(Simulate::Fail) => return Err(MailRefused.into()),
        Some(Simulate::Slow) => cx.sleep(Duration::MAX)?,
        Some(Simulate::Stuck) => {
            cx.progress("waiting for a mail server that never answers");
            loop {
                thread::sleep(Duration::from_secs(1));
            }
        }
    }

    cx.progress("storing the receipt");
    store.insert(order, &text)?;
    Ok(())
}

/// A receipt with a check number that costs some CPU, as a signature would.
fn write(order: &Order) -> String {
    let mut text = format!("Receipt for order {}: {} x {}", order.id, order.quantity, order.item);
    let mut check = 0xcbf2_9ce4_8422_2325_u64;
    for _ in 0..1_000 {
        for byte in text.bytes() {
            check = (check ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    write!(text, " [{check:016x}]").expect("a String takes all that is written");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_names_its_order_and_depends_on_all_of_it() {
        let order = Order { id: 17, item: "tea".into(), quantity: 2, simulate: None };
        let text = write(&order);
        assert!(text.starts_with("Receipt for order 17: 2 x tea ["), "{text}");
        assert_eq!(text, write(&order));
        let (_, check) = text.split_once('[').unwrap();
        assert!(!write(&Order { item: "tee".into(), ..order }).ends_with(check));
    }
}
