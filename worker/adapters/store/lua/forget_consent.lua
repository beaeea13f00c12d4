-- Forget the pair of a sign-in: it was revoked, or cannot be.

forget_pair(sign_in, kept_ms)
return 1
