// The calls of scanner.c from .NET: one slide pushed in bands, the final predictions printed.
// UNTESTED: it was written against pathgene_rt.h and has never been compiled or run.
//
//     PGRT_HOME=/opt/pathgene dotnet run -- lung.pgrt slide.rgb 20000 15000 0.5
//
// slide.rgb holds width x height pixels of three bytes; libpathgene_rt.so must be where .NET looks
// for native libraries.

using System.Runtime.InteropServices;

internal static class Native
{
    private const string Library = "pathgene_rt";

    public const int Ok = 0, Busy = 2001, Rgb = 1;

    [StructLayout(LayoutKind.Sequential)]
    public struct ScanOptions
    {
        public uint StructSize;
        public int WidthPx, HeightPx;
        public uint HasBackground;
        public byte Red, Green, Blue, Zero;
        public uint Anonymize;
        public double Mpp;
        public IntPtr SlideId;
        public ulong PartialBytes;
        public uint WaitingTiles, Reserved;
        public IntPtr Progress, ProgressUser;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct ReportInfo
    {
        public uint StructSize, PredictionCount;
        public ulong Tiles;
        public uint Partial, Reserved;
        public IntPtr Json;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct Prediction
    {
        public uint StructSize, ClassCount;
        public IntPtr Head, Task, Gene, Call, Classes, Probabilities, IntervalLow, IntervalHigh;
        public double Threshold;
    }

    [DllImport(Library)] public static extern uint pgrt_abi_version();
    [DllImport(Library)] public static extern IntPtr pgrt_last_error();
    [DllImport(Library)] public static extern int pgrt_init(IntPtr home);
    [DllImport(Library)]
    public static extern int pgrt_open(
        [MarshalAs(UnmanagedType.LPUTF8Str)] string bundle, IntPtr options, out IntPtr predictor);
    [DllImport(Library)]
    public static extern int pgrt_scan_begin(
        IntPtr predictor, ref ScanOptions options, out IntPtr scan);
    [DllImport(Library)]
    public static extern unsafe int pgrt_push_tile(
        IntPtr scan, byte* pixels, int widthPx, int heightPx, long strideBytes, int format,
        long xPx, long yPx);
    [DllImport(Library)]
    public static extern int pgrt_finish(IntPtr scan, double timeoutS, out IntPtr report);
    [DllImport(Library)]
    public static extern int pgrt_report_get_info(IntPtr report, ref ReportInfo info);
    [DllImport(Library)]
    public static extern int pgrt_report_get_prediction(
        IntPtr report, uint index, ref Prediction prediction);
    [DllImport(Library)] public static extern void pgrt_report_free(IntPtr report);
    [DllImport(Library)] public static extern void pgrt_scan_free(IntPtr scan);
    [DllImport(Library)] public static extern void pgrt_predictor_free(IntPtr predictor);

    public static string Text(IntPtr utf8) => Marshal.PtrToStringUTF8(utf8) ?? "";

    public static void Require(int status, string doing)
    {
        if (status != Ok)
        {
            throw new InvalidOperationException($"{doing}: {Text(pgrt_last_error())} ({status})");
        }
    }
}

internal static class Scanner
{
    private const int BandPx = 512;

    private static int Main(string[] arguments)
    {
        if (arguments.Length != 5 || Native.pgrt_abi_version() != 1)
        {
            Console.Error.WriteLine("usage: scanner BUNDLE SLIDE.rgb WIDTH HEIGHT MPP");
            return 2;
        }
        IntPtr predictor = IntPtr.Zero, scan = IntPtr.Zero, report = IntPtr.Zero;
        try
        {
            Native.Require(Native.pgrt_init(IntPtr.Zero), "init");
            Native.Require(Native.pgrt_open(arguments[0], IntPtr.Zero, out predictor), "open");
            var options = new Native.ScanOptions
            {
                StructSize = (uint)Marshal.SizeOf<Native.ScanOptions>(),
                WidthPx = int.Parse(arguments[2]),
                HeightPx = int.Parse(arguments[3]),
                Mpp = double.Parse(arguments[4], System.Globalization.CultureInfo.InvariantCulture),
            };
            Native.Require(Native.pgrt_scan_begin(predictor, ref options, out scan), "scan");
            PushBands(scan, arguments[1], options.WidthPx, options.HeightPx);
            Native.Require(Native.pgrt_finish(scan, 600, out report), "finish");
            Print(report);
            return 0;
        }
        finally
        {
            Native.pgrt_report_free(report);
            Native.pgrt_scan_free(scan);
            Native.pgrt_predictor_free(predictor);
        }
    }

    private static unsafe void PushBands(IntPtr scan, string path, int width, int height)
    {
        using var file = File.OpenRead(path);
        var band = new byte[3L * width * BandPx];
        for (int y = 0; y < height; y += BandPx)
        {
            int rows = Math.Min(BandPx, height - y);
            file.ReadExactly(band.AsSpan(0, 3 * width * rows));
            fixed (byte* pixels = band)
            {
                int status;
                while ((status = Native.pgrt_push_tile(
                    scan, pixels, width, rows, 3L * width, Native.Rgb, 0, y)) == Native.Busy)
                {
                    Thread.Sleep(5);
                }
                Native.Require(status, "push");
            }
        }
    }

    private static unsafe void Print(IntPtr report)
    {
        var info = new Native.ReportInfo
        {
            StructSize = (uint)Marshal.SizeOf<Native.ReportInfo>(),
        };
        Native.Require(Native.pgrt_report_get_info(report, ref info), "report");
        for (uint number = 0; number < info.PredictionCount; number++)
        {
            var one = new Native.Prediction
            {
                StructSize = (uint)Marshal.SizeOf<Native.Prediction>(),
            };
            Native.Require(
                Native.pgrt_report_get_prediction(report, number, ref one), "prediction");
            Console.WriteLine($"{Native.Text(one.Head)}: {Native.Text(one.Call)}");
            for (int index = 0; index < one.ClassCount; index++)
            {
                string name = Native.Text(((IntPtr*)one.Classes)[index]);
                Console.WriteLine($"  {name} {((double*)one.Probabilities)[index]:F3}");
            }
        }
    }
}
