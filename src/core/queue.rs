//! The queue of tasks that are due: first in, first out, and out of the middle by its place.

use std::collections::VecDeque;

/// A queue whose items can be taken out of the middle in constant time, by the place they were given.
///
/// What is taken out of the middle leaves a gap; `places = front + items + gaps`. Gaps never outnumber items
/// by more than a constant, so that memory stays proportional to what is in the queue.
pub(crate) struct Queue<T> {
    slots: VecDeque<Option<T>>,
    /// The place of the first slot.
    front: u64,
    len: usize,
}

/// Below this many slots, gaps are not worth closing.
const SMALL: usize = 64;

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue { slots: VecDeque::new(), front: 0, len: 0 }
    }
}

impl<T> Queue<T> {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends what `item` makes for the place that it is given.
    #[inline]
    pub(crate) fn push(&mut self, item: impl FnOnce(u64) -> T) {
        let place = self.front + self.slots.len() as u64;
        self.slots.push_back(Some(item(place)));
        self.len += 1;
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        while let Some(slot) = self.slots.pop_front() {
            self.front += 1;
            if slot.is_some() {
                self.len -= 1;
                return slot;
            }
        }
        // A burst's memory is given back once it is over.
        if self.slots.capacity() > SMALL * SMALL {
            self.slots = VecDeque::new();
        }
        None
    }

    pub(crate) fn get(&self, place: u64) -> Option<&T> {
        let index = usize::try_from(place.checked_sub(self.front)?).ok()?;
        self.slots.get(index)?.as_ref()
    }

    /// Takes out what stands at `place`. `moved` is told of each item that gets another place by that.
    pub(crate) fn remove(&mut self, place: u64, moved: impl FnMut(&T, u64)) -> Option<T> {
        let index = usize::try_from(place.checked_sub(self.front)?).ok()?;
        let item = self.slots.get_mut(index)?.take()?;
        self.len -= 1;
        if self.slots.len() > SMALL && self.slots.len() > 2 * self.len {
            self.close_gaps(moved);
        }
        Some(item)
    }

    fn close_gaps(&mut self, mut moved: impl FnMut(&T, u64)) {
        self.slots.retain(Option::is_some);
        self.slots.shrink_to(2 * self.len);
        for (place, item) in (self.front..).zip(self.slots.iter().flatten()) {
            moved(item, place);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }

    /// Takes everything out, in order.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        self.front += self.slots.len() as u64;
        self.len = 0;
        std::mem::take(&mut self.slots).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn filled(n: usize) -> (Queue<usize>, Vec<Cell<u64>>) {
        let mut queue = Queue::default();
        let places: Vec<_> = (0..n).map(|_| Cell::new(0)).collect();
        for (i, cell) in places.iter().enumerate() {
            queue.push(|place| {
                cell.set(place);
                i
            });
        }
        (queue, places)
    }

    #[test]
    fn an_item_is_found_by_its_place_until_it_is_gone() {
        let (mut queue, places) = filled(3);
        assert_eq!(queue.pop(), Some(0));
        assert_eq!(queue.remove(places[0].get(), |_, _| ()), None);
        assert_eq!(queue.remove(places[2].get(), |_, _| ()), Some(2));
        assert_eq!(queue.remove(places[2].get(), |_, _| ()), None);
        assert_eq!((queue.len(), queue.get(places[1].get())), (1, Some(&1)));
        assert_eq!((queue.pop(), queue.pop()), (Some(1), None));
    }

    #[test]
    fn gaps_do_not_outnumber_items() {
        let (mut queue, places) = filled(10_000);
        for i in (1..10_000).filter(|i| i % 10 != 0) {
            let place = places[i].get();
            let moved = |item: &usize, place| places[*item].set(place);
            assert_eq!(queue.remove(place, moved), Some(i));
        }
        assert!(queue.slots.len() <= SMALL.max(2 * queue.len()));
        assert_eq!(queue.drain().collect::<Vec<_>>(), (0..10_000).step_by(10).collect::<Vec<_>>());
        assert!(queue.is_empty());
    }
}
