UNREAD: dict[str, str] = {}
EMPTY: dict[str, str] = {}
