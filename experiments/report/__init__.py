"""Parts of a page, charts, and how they become one HTML text; it knows no study."""
