//! Colours of places, which people with any kind of colour vision tell apart (Okabe and Ito's set).

use cohmem::Place;

/// What was never touched.
pub(crate) const UNTOUCHED: &str = "#ececec";

/// Of devices 0 to 3; further ones have them again.
const DEVICES: [(&str, u8); 4] = [
    ("#e69f00", 214),
    ("#d55e00", 166),
    ("#cc79a7", 175),
    ("#f0e442", 227),
];

/// For pictures and for terminals of 256 colours.
fn colours(place: Place) -> (&'static str, u8) {
    match place {
        Place::Device(number) => DEVICES[(number % 4) as usize],
        Place::System => ("#56b4e9", 75),
        Place::File => ("#0072b2", 25),
        Place::Swap => ("#333333", 240),
        Place::Foreign => ("#009e73", 36),
        Place::Zero => (UNTOUCHED, 254),
        Place::Unseen => ("#aaaaaa", 248),
    }
}

/// As `#rrggbb`.
pub(crate) fn rgb(place: Place) -> &'static str {
    colours(place).0
}

/// As a number of the 256 colours of a terminal.
pub(crate) fn terminal(place: Place) -> u8 {
    colours(place).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_colours_of_their_own() {
        let mut places: Vec<_> = (0..4).map(Place::Device).collect();
        places.extend([
            Place::System,
            Place::File,
            Place::Swap,
            Place::Foreign,
            Place::Zero,
            Place::Unseen,
        ]);
        let mut seen: Vec<_> = places.iter().map(|&place| rgb(place)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), places.len());
        assert_eq!(rgb(Place::Device(63)), rgb(Place::Device(3)));
    }
}
