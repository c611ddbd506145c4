//! The queue of tasks that are due: first in, first out, and out of the middle by its place.

use std::collections::VecDeque;

/// A queue whose items can be taken out of the middle in constant time, by the place they were given. It grows and
/// shrinks by blocks, so that no push takes longer than any other, however much stands in it.
///
/// What is taken out of the middle leaves a gap; `back - front = items + gaps`. Once gaps outnumber items, the next
/// that is taken out closes them; those that the front passes are gone by themselves.
///
/// Of its fields only the first two change while items flow through it; see [`State`](super::state::State).
#[repr(C)]
pub(crate) struct Queue<T> {
    /// The first place that is not empty, if there is one.
    front: u64,
    /// The place that the next item is given.
    back: u64,
    gaps: usize,
    /// From that of `front` on, up to that of the last item at least. An empty queue may have none.
    blocks: VecDeque<Block<T>>,
    /// One that was emptied, to be filled next.
    spare: Option<Block<T>>,
}

/// How many places a block has. It is also the most that a worker takes at once where tiny tasks flow: with 32, a flood
/// from one thread took a tenth longer, with 128 as long, and half as long again where each was taken by itself. With
/// fewer places in use, gaps are not worth closing. Tests need few tasks to fill one.
pub(crate) const BLOCK: usize = if cfg!(inflight_model) {
    2
} else if cfg!(test) {
    4
} else {
    64
};

type Block<T> = Box<[Option<T>; BLOCK]>;

/// The first items of the queue, taken out of it together: what there was of their block.
pub(crate) struct Batch<T> {
    block: Option<Block<T>>,
    /// Where its items stand: from `at` up to `end`.
    at: usize,
    end: usize,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Batch { block: None, at: 0, end: 0 }
    }
}

impl<T> Batch<T> {
    pub(crate) fn len(&self) -> usize {
        self.end - self.at
    }

    /// The first item, if it is there and `takes` says so.
    #[inline]
    pub(crate) fn next_if(&mut self, takes: impl FnOnce(&T) -> bool) -> Option<T> {
        let slot = self.block.as_mut()?.get_mut(self.at)?;
        if slot.as_ref().is_some_and(takes) {
            self.at += 1;
            return slot.take();
        }
        None
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.block.iter().flat_map(|block| block[self.at..].iter().flatten())
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue { front: 0, back: 0, gaps: 0, blocks: VecDeque::new(), spare: None }
    }
}

impl<T> Queue<T> {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.places() - self.gaps
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.front == self.back
    }

    /// Up to here all places have been passed.
    #[inline]
    pub(crate) fn front(&self) -> u64 {
        self.front
    }

    /// From here on no place has been given.
    #[inline]
    pub(crate) fn back(&self) -> u64 {
        self.back
    }

    #[inline]
    fn places(&self) -> usize {
        (self.back - self.front) as usize
    }

    /// Which block, and which of its places.
    #[inline]
    fn spot(&self, place: u64) -> (usize, usize) {
        let block = place / BLOCK as u64 - self.front / BLOCK as u64;
        (block as usize, (place % BLOCK as u64) as usize)
    }

    #[inline]
    fn slot(&mut self, place: u64) -> &mut Option<T> {
        let (block, at) = self.spot(place);
        &mut self.blocks[block][at]
    }

    /// Appends what `item` makes for the place that it is given.
    #[inline]
    pub(crate) fn push(&mut self, item: impl FnOnce(u64) -> T) {
        let place = self.back;
        if self.spot(place).0 == self.blocks.len() {
            let block = self.fresh_block();
            self.blocks.push_back(block);
        }
        *self.slot(place) = Some(item(place));
        self.back += 1;
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            self.rest();
            return None;
        }
        let item = self.slot(self.front).take();
        self.pass();
        self.pass_gaps();
        item
    }

    /// Takes out the first items, up to the end of their block, if these are `fewest` or more. Not where there are
    /// gaps.
    #[inline]
    pub(crate) fn pop_batch(&mut self, fewest: usize) -> Option<Batch<T>> {
        let at = (self.front % BLOCK as u64) as usize;
        let end = BLOCK.min(at + self.places());
        if self.gaps > 0 || end - at < fewest {
            return None;
        }
        // What is pushed next gets the place that it would have had, in another block.
        let block = self.blocks.pop_front();
        self.front += (end - at) as u64;
        Some(Batch { block, at, end })
    }

    /// Puts what is left of the batch that was taken last back where it stood, at the front. `moved` is told of
    /// the place that each item has now.
    pub(crate) fn put_back(&mut self, batch: Batch<T>, mut moved: impl FnMut(&T, u64)) {
        let Some(mut block) = batch.block else { return };
        for slot in block[batch.at..].iter_mut().rev() {
            let Some(item) = slot.take() else { continue };
            if self.blocks.is_empty() || self.front % BLOCK as u64 == 0 {
                let block = self.fresh_block();
                self.blocks.push_front(block);
            }
            self.front -= 1;
            moved(&item, self.front);
            *self.slot(self.front) = Some(item);
        }
        self.spare = Some(block);
    }

    fn fresh_block(&mut self) -> Block<T> {
        self.spare.take().unwrap_or_else(|| Box::new([const { None }; BLOCK]))
    }

    /// The list of a burst's blocks is given back once the burst is over.
    fn rest(&mut self) {
        if self.blocks.capacity() > BLOCK {
            self.blocks.shrink_to(BLOCK);
        }
    }

    /// The front is passed; it is empty.
    #[inline]
    fn pass(&mut self) {
        self.front += 1;
        if self.front % BLOCK as u64 == 0 {
            self.spare = self.blocks.pop_front();
        }
    }

    #[inline]
    fn pass_gaps(&mut self) {
        while self.gaps > 0 && self.slot(self.front).is_none() {
            self.gaps -= 1;
            self.pass();
        }
    }

    pub(crate) fn get(&self, place: u64) -> Option<&T> {
        if !(self.front..self.back).contains(&place) {
            return None;
        }
        let (block, at) = self.spot(place);
        self.blocks[block][at].as_ref()
    }

    /// Takes out what stands at `place`. `moved` is told of each item that gets another place by that.
    pub(crate) fn remove(&mut self, place: u64, moved: impl FnMut(&T, u64)) -> Option<T> {
        self.get(place)?;
        let item = self.slot(place).take();
        self.gaps += 1;
        self.pass_gaps();
        if self.places() > BLOCK && self.gaps > self.len() {
            self.close_gaps(moved);
        }
        item
    }

    fn close_gaps(&mut self, mut moved: impl FnMut(&T, u64)) {
        let mut to = self.front;
        for from in self.front..self.back {
            if let Some(item) = self.slot(from).take() {
                moved(&item, to);
                *self.slot(to) = Some(item);
                to += 1;
            }
        }
        self.back = to;
        self.gaps = 0;
        self.blocks.truncate(self.spot(to).0 + 1);
        self.blocks.shrink_to(2 * self.blocks.len());
    }

    /// Gives back the memory that it keeps to be used again.
    pub(crate) fn shrink(&mut self) {
        self.spare = None;
        if self.is_empty() {
            self.blocks = VecDeque::new();
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        (self.front..self.back).filter_map(|place| self.get(place))
    }

    /// Takes everything out, in order.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        let mut all = std::mem::take(self);
        (self.front, self.back) = (all.back, all.back);
        std::iter::from_fn(move || all.pop())
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
        assert!(queue.places() <= BLOCK.max(2 * queue.len()));
        assert_eq!(queue.drain().collect::<Vec<_>>(), (0..10_000).step_by(10).collect::<Vec<_>>());
        assert!(queue.is_empty());
    }

    #[test]
    fn gaps_that_pops_have_left_are_closed_by_the_next_removal() {
        let (mut queue, places) = filled(1000);
        for i in 501..1000 {
            let moved = |item: &usize, place| places[*item].set(place);
            assert_eq!(queue.remove(places[i].get(), moved), Some(i));
        }
        for i in 0..400 {
            assert_eq!(queue.pop(), Some(i));
        }
        let moved = |item: &usize, place| places[*item].set(place);
        assert_eq!(queue.remove(places[450].get(), moved), Some(450));
        assert!(queue.places() <= BLOCK.max(2 * queue.len()));
        assert_eq!(queue.get(places[500].get()), Some(&500));
    }

    #[test]
    fn the_memory_of_a_burst_is_given_back() {
        let (mut queue, _) = filled(2 * BLOCK * BLOCK);
        while queue.pop().is_some() {}
        assert!(queue.blocks.len() <= 1 && queue.blocks.capacity() <= BLOCK);
    }

    #[test]
    fn at_rest_it_has_no_memory_and_goes_on_from_where_it_was() {
        let (mut queue, places) = filled(10);
        while queue.pop().is_some() {}
        queue.shrink();
        assert!(queue.spare.is_none() && queue.blocks.capacity() == 0);
        let place = Cell::new(0);
        queue.push(|new| {
            place.set(new);
            10
        });
        assert!(place.get() > places[9].get());
        assert_eq!(queue.get(place.get()), Some(&10));
    }

    #[test]
    fn a_place_is_given_once() {
        let (mut queue, places) = filled(3);
        assert_eq!(queue.drain().count(), 3);
        queue.push(|_| 3);
        assert_eq!(queue.get(places[0].get()), None);
        assert_eq!(queue.remove(places[0].get(), |_, _| ()), None);
        assert_eq!(queue.pop(), Some(3));
    }

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Push,
        Pop,
        PopBatch(usize),
        NextOfBatch,
        PutBack,
        Remove(usize),
        Drain,
        Shrink,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            30 => Just(Op::Push),
            12 => Just(Op::Pop),
            3 => (1..=BLOCK).prop_map(Op::PopBatch),
            6 => Just(Op::NextOfBatch),
            3 => Just(Op::PutBack),
            20 => any::<usize>().prop_map(Op::Remove),
            1 => Just(Op::Drain),
            3 => Just(Op::Shrink)
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
            let mut batches: Vec<Batch<usize>> = Vec::new();
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
                    Op::PopBatch(fewest) => {
                        let in_block = BLOCK - queue.front() as usize % BLOCK;
                        let (gaps, fits) = (queue.gaps > 0, in_block.min(queue.len()));
                        let Some(batch) = queue.pop_batch(fewest) else {
                            prop_assert!(gaps || fits < fewest);
                            continue;
                        };
                        let items: Vec<_> = batch.iter().copied().collect();
                        prop_assert_eq!(items.len(), fits);
                        prop_assert!(fits >= fewest);
                        prop_assert_eq!(model.drain(..items.len()).collect::<Vec<_>>(), items);
                        batches.push(batch);
                    }
                    Op::NextOfBatch => {
                        let Some(batch) = batches.last_mut() else { continue };
                        let first = batch.iter().next().copied();
                        prop_assert_eq!(batch.len(), batch.iter().count());
                        prop_assert_eq!(batch.next_if(|_| false), None);
                        prop_assert_eq!(batch.next_if(|item| Some(*item) == first), first);
                    }
                    Op::PutBack => {
                        // What was taken out last stands first.
                        let Some(batch) = batches.pop() else { continue };
                        let items: Vec<_> = batch.iter().copied().collect();
                        queue.put_back(batch, |&item, place| places.borrow_mut()[item] = place);
                        model.splice(0..0, items);
                    }
                    Op::Remove(which) if !model.is_empty() => {
                        let item = model.remove(which % model.len());
                        let place = places.borrow()[item];
                        let removed = queue.remove(place, |&item, place| places.borrow_mut()[item] = place);
                        prop_assert_eq!(removed, Some(item));
                        prop_assert!(queue.places() <= BLOCK.max(2 * queue.len()) + 1);
                        if let Some(other) = queue.get(place) {
                            prop_assert_eq!(places.borrow()[*other], place, "another item moved there");
                        }
                    }
                    Op::Remove(_) => {}
                    Op::Drain => {
                        let all: Vec<_> = queue.drain().collect();
                        prop_assert_eq!(all, std::mem::take(&mut model));
                    }
                    Op::Shrink => {
                        queue.shrink();
                        prop_assert!(!model.is_empty() || queue.blocks.capacity() == 0);
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
