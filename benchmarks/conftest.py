"""One thread for everybody: the libraries' own threads are held back where their environment variables cannot."""

from __future__ import annotations

import cv2

cv2.setNumThreads(1)
