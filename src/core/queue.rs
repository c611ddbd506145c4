//! The queue of tasks that are due: first in, first out, and out of the middle by its place.

use std::collections::VecDeque;

/// A queue whose items can be taken out of the middle in constant time, by the place they were given.
///
/// What is taken out of the middle leaves a gap; `places = front + items + gaps`. Once gaps outnumber items, the next
/// that is taken out closes them; those that the front passes are gone by themselves.
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
    use proptest::prelude::*;
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

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Push,
        Pop,
        Remove(usize),
        Drain,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            30 => Just(Op::Push),
            12 => Just(Op::Pop),
            20 => any::<usize>().prop_map(Op::Remove),
            1 => Just(Op::Drain)
        ];
        // So many that gaps are closed.
        prop::collection::vec(op, 1..600)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_a_vec_whose_items_know_their_places(ops in ops(), start in 0..200_usize) {
            let mut queue = Queue::default();
            // What the items know: their place, while they are in the queue.
            let places = std::cell::RefCell::new(Vec::new());
            let mut model: Vec<usize> = Vec::new();
            for op in std::iter::repeat_n(Op::Push, start).chain(ops) {
                match op {
                    Op::Push => queue.push(|place| {
                        let item = places.borrow().len();
                        places.borrow_mut().push(place);
                        model.push(item);
                        item
                    }),
                    Op::Pop => {
                        let first = (!model.is_empty()).then(|| model.remove(0));
                        prop_assert_eq!(queue.pop(), first);
                    }
                    Op::Remove(which) if !model.is_empty() => {
                        let item = model.remove(which % model.len());
                        let place = places.borrow()[item];
                        let removed = queue.remove(place, |&item, place| places.borrow_mut()[item] = place);
                        prop_assert_eq!(removed, Some(item));
                        prop_assert!(queue.slots.len() <= SMALL.max(2 * queue.len()) + 1);
                        if let Some(other) = queue.get(place) {
                            prop_assert_eq!(places.borrow()[*other], place, "another item moved there");
                        }
                    }
                    Op::Remove(_) => {}
                    Op::Drain => {
                        let all: Vec<_> = queue.drain().collect();
                        prop_assert_eq!(all, std::mem::take(&mut model));
                    }
                }
                prop_assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
            }
            prop_assert_eq!(queue.iter().copied().collect::<Vec<_>>(), model.clone());
            for item in model {
                prop_assert_eq!(queue.get(places.borrow()[item]), Some(&item));
            }
        }
    }
}
